"""The USTAD student: one encoder that scores in three ways."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...engine import batching, checkpoints, lengths
from ...engine.locks import loading
from ...losses import base as losses
from ..joint import JointStudent, Pair, checked_pairs
from . import modes as scoring_modes
from . import ranking, training
from .modes import CROSS, DUAL, LATE, check_mode, check_modes, check_scale

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...training.lists import QueryList
    from .bi_encoder import USTADBiEncoder
    from .reader import Reader
    from .token_encoder import USTADTokenEncoder

QUERY_LENGTH = 32


class USTAD(JointStudent):
    """R → R: one encoder that re-ranks as a cross-encoder, as a dual encoder or by late interaction.

    Every mode is trained with the same weights, and may rank whether it was trained or not:

    * ``cross``: query and document are read together, ``[CLS] q [SEP] d [SEP]``; the score is the inner product of the
      pooled states of the query's tokens and of the document's (Eq. 4: dual pooling, no head).
    * ``dual``: read apart, ``[CLS] q [SEP]`` and ``d [SEP]``; the inner product of the pooled states (Eq. 5).
    * ``late``: read apart as in ``dual``; for each token of the query the largest inner product with a token of the
      document, summed (Eq. 6-7, ColBERT).

    A document stands at the same positions in all modes, as Eq. 5 asks: behind the query. So that its vectors do not
    depend on the query, ``query_length`` positions are reserved for queries, whatever their length: documents begin at
    position ``query_length``, with the segment (token type) of second texts where the model has segments. Nothing is
    padded in between, only ``position_ids`` jump. A model that knows distances alone (rotary, relative) sees the jump
    in the cross mode only, and one that takes no ``position_ids`` never does; these work all the same.

    Train it with :class:`~pyterrier_distill.ScoreMatch` beside any losses on scores: each is summed over ``modes``, and
    ``ScoreMatch()`` pulls every pair of them together (Eq. 8). Validation ranks with ``mode``.

    Args:
        name_or_path: a directory or hub name of a transformers encoder, such as a sentence-transformers checkpoint.
        mode: ``"cross"`` | ``"dual"`` | ``"late"``: how it ranks. May change at any time: :meth:`in_mode`. None = as
            saved, otherwise the first of ``modes``.
        modes: which modes are trained. None = as saved, otherwise ``("cross", "dual")``.
        layers: keep these layers (from 0), or this many spread evenly; None = all.
        pooling: ``"mean"`` over a text's tokens, special ones included; or ``"cls"``: the first, then documents begin
            with a [CLS] of their own. None = as saved, otherwise mean.
        query_length: tokens of a query, [CLS] and [SEP] included, the rest is cut; also where documents begin. None =
            as saved, otherwise 32, which holds nearly all questions that people ask of search engines.
        scale: multiplies the scores of all modes, or of some: ``{"late": 0.1}``. None = as saved, otherwise 1: the
            paper's inner products. Those of all-MiniLM-L6-v2 spread over a list by about 2 (cross, dual), as a softmax
            wants them, but by 40 in the late mode, a sum over tokens: trained beside others it wants about one over the
            tokens of a query, or its loss and its differences to them outweigh theirs. Vectors of wider encoders are
            longer; 1/sqrt(dimension) is usual.
        max_length: positions of query and document together; documents have ``max_length - query_length`` of them, the
            rest is cut. None = as saved, otherwise as many as the model reads.
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16`` of ranking; ``auto`` = bf16 where the hardware multiplies
            it natively.
        batch_size: most texts or pairs of one forward pass (a token budget usually cuts earlier).
        text_field: the column of document text.
        device: None = the GPU where there is one.
        verbose: True = ranking shows progress, False = never; None = once it takes more than three seconds.
        trust_remote_code: whether a hub model may bring its own code.

    Raises:
        FileNotFoundError: if the path is no directory; on first use, if there is no such model.
        ValueError: for an unknown mode, no modes, a query length that leaves no place for documents; on first use, if
            the checkpoint is no encoder, or reads fewer tokens.

    References:
        Kim et al. 2024, USTAD: Unified Single-model Training Achieving Diverse Scores for Information Retrieval, §4,
        Eq. 4-8.

    Example::

        minilm = "sentence-transformers/all-MiniLM-L6-v2"
        student = ptd.USTAD(minilm, modes=("cross", "dual", "late"), scale={"late": 0.1})
        ptd.Distiller(student, ptd.LocalizedContrastive() + 0.1 * ptd.ScoreMatch()).fit(candidates(topics), qrels)
        encoder = student.as_bi_encoder()
        (encoder >> index).index(documents)
        pipeline = encoder.query_encoder() >> index.retriever() % 100 >> text >> student.in_mode("cross")
        tokens = student.as_token_encoder()
        (tokens >> ptd.MultiVectorIndex("docs.mvi")).index(documents)
    """

    ARTIFACT_TYPE = "ustad"
    DESCRIBED = "a USTAD: one encoder that reads query and document together or apart"
    LOADED_BY = "transformers.AutoModel.from_pretrained({name})"
    ARTIFACT_FORMAT = "transformers"
    schematic = {"label": "USTAD"}

    _RUNTIME = ("mode", "modes", *JointStudent._RUNTIME)

    def __init__(
        self,
        name_or_path: str | os.PathLike,
        *,
        mode: str | None = None,
        modes: str | Sequence[str] | None = None,
        layers: int | Sequence[int] | None = None,
        pooling: str | None = None,
        query_length: int | None = None,
        scale: float | Mapping[str, float] | None = None,
        max_length: int | None = None,
        precision: str = "auto",
        batch_size: int | None = None,
        text_field: str = "text",
        device: str | None = None,
        verbose: bool | None = None,
        trust_remote_code: bool = False,
    ):
        super().__init__(
            name_or_path, max_length=max_length, precision=precision, batch_size=batch_size, text_field=text_field,
            device=device, verbose=verbose, trust_remote_code=trust_remote_code,
        )  # fmt: skip
        saved = self._metadata()
        self.modes = check_modes(saved.get("modes", (CROSS, DUAL)) if modes is None else modes)
        self.mode = check_mode(saved.get("mode", self.modes[0]) if mode is None else mode)
        self.layers = list(layers) if isinstance(layers, tuple) else layers
        self.pooling = saved.get("pooling", "mean") if pooling is None else pooling
        self.query_length = saved.get("query_length", QUERY_LENGTH) if query_length is None else query_length
        self.scale = check_scale(saved.get("scale", 1.0) if scale is None else scale)
        self.max_length = saved.get("max_length") if max_length is None else max_length
        checkpoints.check_layers(self.name_or_path, layers)
        scoring_modes.check_settings(self.pooling, self.query_length, self.max_length)

    # -- the model ----------------------------------------------------------------------------------------------------

    def _build(self) -> nn.Module:
        from transformers import AutoConfig

        from ...engine import pretrained

        hub = {"trust_remote_code": self.trust_remote_code}
        name = self.name_or_path
        config = pretrained.read(name, "configuration", lambda: AutoConfig.from_pretrained(name, **hub))
        if config.is_encoder_decoder:
            raise ValueError(f"{name!r} is an encoder with a decoder: USTAD wants an encoder such as BERT.")
        loaded = pretrained.load(
            name, "encoder", hub, "fp32", batching.infer_device(self.device), max_length=self.max_length,
            may_lack=lambda weight: "pooler" in weight,  # which nobody reads
        )  # fmt: skip
        if self.layers is not None:
            checkpoints.cut_layers(loaded.model, self.layers)
        self._weights.reader = self._read_by(loaded.model, loaded.tokenizer, loaded.max_length)
        return loaded.model

    def _read_by(self, model: nn.Module, tokenizer: Any, length: int | None) -> Reader:
        from .reader import Reader

        return Reader.of(self.name_or_path, model, tokenizer, self.query_length, length, self.pooling)

    @property
    def reader(self) -> Reader:
        """What reads texts for the model."""
        model = self.model
        with loading():
            if self._weights.reader is None:  # unpickled: the weights came along, what reads texts for them did not
                from ...engine import pretrained

                tokenizer = pretrained.load_tokenizer(self.name_or_path, {"trust_remote_code": self.trust_remote_code})
                length = lengths.fit(self.name_or_path, tokenizer, model, self.max_length)
                self._weights.reader = self._read_by(model, tokenizer, length)
        return self._weights.reader

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.model.config.hidden_size

    def _write(self, draft: Path) -> None:
        self.model.save_pretrained(str(draft))
        self.reader.tokenizer.save_pretrained(str(draft))

    def _told(self) -> dict[str, Any]:
        names = ("mode", "modes", "pooling", "query_length", "scale", "max_length")
        return {name: getattr(self, name) for name in names}

    # -- its modes ----------------------------------------------------------------------------------------------------

    def apply_attributes(self, **kwargs: Any) -> USTAD:
        """A copy with other settings; the weights are shared where only settings of running it change."""
        if "mode" in kwargs:
            check_mode(kwargs["mode"])
        if "modes" in kwargs:
            kwargs["modes"] = check_modes(kwargs["modes"])
        return super().apply_attributes(**kwargs)

    def in_mode(self, mode: str) -> USTAD:
        """The same model, ranking in another mode; the weights are shared, also when training changes them.

        Args:
            mode: ``"cross"`` | ``"dual"`` | ``"late"``.

        Raises:
            ValueError: if there is no such mode.
        """
        return self.apply_attributes(mode=mode)

    def scale_of(self, mode: str) -> float:
        """What the scores of ``mode`` are multiplied by."""
        return self.scale.get(mode, 1.0) if isinstance(self.scale, dict) else self.scale

    def as_bi_encoder(self) -> USTADBiEncoder:
        """The dual mode as a ``pyterrier_dr.BiEncoder`` of the same weights: it indexes, retrieves, and writes
        ``query_vec`` and ``doc_vec`` for :class:`~pyterrier_distill.EmbeddingMatch`."""
        from .bi_encoder import USTADBiEncoder

        return USTADBiEncoder(self)

    def as_token_encoder(self) -> USTADTokenEncoder:
        """The late mode as an encoder of tokens, of the same weights, for :class:`~pyterrier_distill.MultiVectorIndex`:
        it indexes and retrieves as a :class:`~pyterrier_distill.LateInteraction` does."""
        from .token_encoder import USTADTokenEncoder

        return USTADTokenEncoder(self)

    # -- ranking ------------------------------------------------------------------------------------------------------

    def features(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Pairs to be read together."""
        return self.reader.pairs(pairs)

    def scores(self, pairs: Iterable[Pair]) -> np.ndarray:
        """Scores ``[n]`` of (query, document) pairs in the mode that ranks; equal texts are encoded once."""
        if self.mode == CROSS or not (pairs := checked_pairs(pairs)):
            return super().scores(pairs)
        queries, documents = (list(dict.fromkeys(texts)) for texts in zip(*pairs, strict=True))
        if self.mode == DUAL:
            query = dict(zip(queries, self.vectors(queries, "query"), strict=True))
            document = dict(zip(documents, self.vectors(documents, "document"), strict=True))
            products = np.array([query[q] @ document[d] for q, d in pairs], dtype=np.float32)
            return np.float32(self.scale_of(DUAL)) * products
        return np.float32(self.scale_of(LATE)) * ranking.late(self, pairs, queries, documents)

    def pair_vectors(self, pairs: Iterable[Pair]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of queries and documents that were read together: what the cross mode multiplies (Eq. 4, App. F.2).

        Args:
            pairs: n (query, document) pairs.

        Returns:
            Of the query in the sight of the document, emb_{q←(q,d)}, and of the document in that of the query, float32
            ``[n, dimension]`` each; ``[0, 0]`` for no pairs, without loading the model. Their inner products times
            ``scale`` are the cross mode's scores.

        Raises:
            TypeError: for anything else than pairs of texts.
        """
        if not (pairs := checked_pairs(pairs)):
            return np.empty((0, 0), dtype=np.float32), np.empty((0, 0), dtype=np.float32)
        return ranking.pair_vectors(self, pairs)

    def vectors(self, texts: Sequence[str], side: str, batch_size: int | None = None) -> np.ndarray:
        """Pooled vectors of the dual mode.

        Args:
            texts: n texts.
            side: ``"query"`` or ``"document"``.
            batch_size: as in the constructor.

        Returns:
            float32 ``[n, dimension]``; ``[0, 0]`` for none, without loading the model.
        """
        if not len(texts):
            return np.empty((0, 0), dtype=np.float32)
        return ranking.encoded(self, texts, side, pool=True, batch_size=batch_size)

    # -- training -----------------------------------------------------------------------------------------------------

    @property
    def score_scale(self) -> str:  # type: ignore[override]
        """On what scale the scores of the trained modes are: inner products, which the late mode sums over tokens."""
        return losses.MAX_SIM if LATE in self.modes else losses.DOT

    @property
    def gives(self) -> frozenset[str]:  # type: ignore[override]
        """What a loss may ask of this student: scores; of several modes, these side by side; without the cross mode,
        scores of a query against others' documents."""
        several = {losses.MODES} if len(self.modes) > 1 else set()
        apart = {losses.BATCH_SCORES} if CROSS not in self.modes else set()
        return frozenset({losses.SCORES} | several | apart)

    def check_training(self, needs: frozenset[str], vectors: dict[str, int]) -> None:
        """Refuse in-batch negatives in several processes."""
        training.check(needs)

    def encode(self, features: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """The model's last states, with gradients.

        Args:
            features: as the reader gives them, ``[n, L]``, anywhere.

        Returns:
            float32 ``[n, L, D]``, and bool ``[n, L]`` twice: the query's tokens, the document's.
        """
        device = next(self.model.parameters()).device
        features = {name: value.to(device) for name, value in features.items()}
        document = features.pop("document")
        states = self.model(**features).last_hidden_state.float()
        return states, features["attention_mask"].bool() & ~document, document

    def logits(self, features: dict[str, Any]) -> Tensor:
        """Scores ``[n, 1]`` of pairs read together (Eq. 4), with gradients."""
        from .scores import inner_products

        return self.scale_of(CROSS) * inner_products(*self.pooled_pairs(features)).unsqueeze(-1)

    def pooled_pairs(self, features: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Pooled vectors ``[n, D]`` of queries and of documents, read together (Eq. 4), with gradients."""
        from .scores import pool

        states, query, document = self.encode(features)
        return pool(states, query, self.pooling), pool(states, document, self.pooling)

    def collate(self, lists: list[QueryList], needs: frozenset[str]) -> dict[str, Any]:
        """A batch: all pairs of all lists; the distinct queries and documents, and which pair has which."""
        return training.collate(self, lists)

    def forward(self, batch: dict[str, Any], mask: Tensor, needs: frozenset[str]) -> losses.Outputs:
        """One forward pass over a collated batch in all modes that are trained; see ``training.forward``."""
        return training.forward(self, batch, mask, needs)
