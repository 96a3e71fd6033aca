"""New queries from old ones: noise between an encoder and its decoder (USTAD's query generation)."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_alpha as pta

from ..backends.inputs import decoder_start
from ..engine import batching, generation, pretrained
from ..engine.locks import once, using
from ..engine.model_state import Loaded, shown
from ..engine.tokens import disarmed
from ..frames import QUERY_EMBS, QUERY_STATES, QUERY_VEC, arguments, check_text, validate
from ..frames.arguments import Named
from ..stores import redaction
from .answers import clean, key_of

if TYPE_CHECKING:
    import torch

#: What was computed from a query's text, and is not true of another text.
_STALE = (QUERY_VEC, QUERY_STATES, QUERY_EMBS, "query_toks")
OUTCOMES = ("ok", "duplicate", "empty")


class QueryPerturbation(Named, pt.Transformer):
    """Q → Q: behind each query up to n new ones, x' = Dec(Enc(x) + ε) of an encoder-decoder.

    Some tokens of the query are masked, Gaussian noise is added to the encoder's output, and the decoder writes
    greedily what it reads there. A new query has the qid ``<qid>-<suffix><k>`` (k from 0) and its query's other
    columns, save vectors and tokens, which are dropped from all rows: encode behind this, not before. All qids become
    strings. New queries that equal theirs or one another but for case and punctuation, and empty ones, are left out and
    counted; the others keep their k. They depend on the seed and on the query's text, not on what else is in the frame.

    Args:
        model: the directory or hub name of an encoder-decoder checkpoint that reconstructs its input, as BART does.
        noise: standard deviation of the noise, in units of the encoder's output; the paper takes 0.1 and 0.2.
        mask: probability of each token to be masked: by the checkpoint's mask token, else by T5's sentinels in their
            order, else by its unknown token.
        n: new queries of a query.
        keep_original: whether the queries themselves are in the output.
        suffix: of the new qids. Give each of several perturbations of the same queries its own.
        seed: another seed, other noise and masks.
        max_length: tokens of a query, and of a new one; further ones are cut.
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16``.
        batch_size: most queries of one forward pass.
        device: None = the GPU where there is one.
        revision: of a hub model.
        verbose: True = progress is shown, False = never; None = once it takes more than three seconds.
        trust_remote_code: whether a hub model may bring its own code.

    Attributes:
        responses: how many new queries were ``ok``, a ``duplicate``, or ``empty``, since it was made.

    Raises:
        ValueError: for impossible settings; when first used, if the checkpoint is no encoder-decoder; when
            transforming, if two queries would have one qid.

    References:
        Kim et al. 2024 (USTAD), §6.1 and App. C: BART-base, 10% of tokens masked, σ of {0.1, 0.2}.

    Example::

        queries = (ptd.QueryPerturbation(n=2) >> teacher.query_encoder())(topics)
        little, much = ptd.QueryPerturbation(), ptd.QueryPerturbation(noise=0.2, keep_original=False, suffix="much")
        queries = pd.concat([little(topics), much(topics)], ignore_index=True)
    """

    schematic = {"label": "QueryPerturbation"}

    def __init__(
        self,
        model: str | os.PathLike = "facebook/bart-base",
        noise: float = 0.1,
        mask: float = 0.1,
        n: int = 2,
        *,
        keep_original: bool = True,
        suffix: str = "p",
        seed: int = 42,
        max_length: int = 64,
        precision: str = "auto",
        batch_size: int | None = None,
        device: str | None = None,
        revision: str | None = None,
        verbose: bool | None = None,
        trust_remote_code: bool = False,
    ):
        if not isinstance(noise, (int, float)) or not 0 <= noise < float("inf"):
            raise ValueError(f"noise must be a number of at least 0, not {noise!r}.")
        if not isinstance(mask, (int, float)) or not 0 <= mask <= 1:
            raise ValueError(f"mask must be a probability between 0 and 1, not {mask!r}.")
        if noise == 0 and mask == 0:
            raise ValueError("with neither noise nor mask all new queries would be the same.")
        for name, value, least in (("n", n, 1), ("max_length", max_length, 2)):
            arguments.whole(value, name, least)
        self.model = pretrained.check_name(os.fspath(model))
        self.noise = noise
        self.mask = mask
        self.n = n
        self.keep_original = keep_original
        self.suffix = suffix
        self.seed = seed
        self.max_length = max_length
        self.precision = batching.check_precision(precision)
        self.batch_size = batch_size
        self.device = device
        self.revision = revision
        self.verbose = verbose
        self.trust_remote_code = trust_remote_code
        self.responses: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self._held = Loaded()

    @once
    def _loaded(self) -> tuple[Any, Any]:
        """Tokenizer and model."""
        from transformers import AutoConfig, GenerationConfig

        hub: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        hub |= {} if self.revision is None else {"revision": self.revision}
        config = pretrained.read(
            self.model, "configuration", lambda: AutoConfig.from_pretrained(self.model, **hub)
        )  # BART-base is saved without its head, whose weights are those of its embeddings
        if not config.is_encoder_decoder:
            raise ValueError(
                f"{self.model!r} is a {config.model_type} checkpoint, but noise goes between an encoder and a decoder."
            )
        device = batching.infer_device(self.device)
        tokenizer, model, _, _ = pretrained.load(
            self.model, "seq2seq", hub, self.precision, device, max_length=self.max_length
        )
        tokenizer.padding_side = "right"
        model.generation_config = GenerationConfig()  # greedy means greedy, without a checkpoint's own beams
        return tokenizer, self._held.hold(model, tokenizer, [self.model])

    @once
    def _masks(self) -> list[int]:
        """Tokens that stand for a masked one, in the order of their use; the last one again and again.

        Raises:
            ValueError: if the tokenizer has none.
        """
        tokenizer = self._loaded[0]
        if tokenizer.mask_token_id is not None:
            return [tokenizer.mask_token_id]
        known = tokenizer.get_vocab()
        sentinels = [known[f"<extra_id_{i}>"] for i in range(100) if f"<extra_id_{i}>" in known]
        if not sentinels and tokenizer.unk_token_id is None:
            raise ValueError(f"the tokenizer of {self.model!r} has no mask, sentinel or unknown token: pass mask=0.")
        return sentinels or [tokenizer.unk_token_id]

    # -- the frame ----------------------------------------------------------------------------------------------------

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add new queries behind each query."""
        validate.query_frame(inp, ["query"], context=self)
        check_text(inp, ["query"])
        inp = inp.drop(columns=[column for column in _STALE if column in inp.columns])
        texts = inp["query"].tolist()
        distinct = [text for text in dict.fromkeys(texts) if text.split()]
        written = dict(zip(distinct, self._write(distinct), strict=True)) if distinct else {}
        rows: list[int] = []
        qids: list[Any] = []
        queries: list[str] = []
        for row, (qid, text) in enumerate(zip(inp["qid"].astype(str), texts, strict=True)):
            if self.keep_original:
                rows, qids, queries = [*rows, row], [*qids, qid], [*queries, text]
            seen = {key_of(text)}
            for k, new in enumerate(written.get(text, [])):
                outcome = "empty" if not key_of(new) else "duplicate" if key_of(new) in seen else "ok"
                self.responses[outcome] += 1
                if outcome == "ok":
                    seen.add(key_of(new))
                    rows.append(row)
                    qids.append(f"{qid}-{self.suffix}{k}")
                    queries.append(new)
        twice = [qid for qid, count in Counter(qids).items() if count > 1]
        if twice:
            raise ValueError(
                f"two queries would have the qid {twice[0]!r} ({len(twice)} such ids): where the frame holds queries of"
                " another perturbation, give this one a suffix= of its own; else drop_duplicates('qid') first."
            )
        out = inp.iloc[rows].reset_index(drop=True)
        return out.assign(qid=pd.Series(qids, dtype=object), query=pd.Series(queries, dtype=object))

    # -- the model ----------------------------------------------------------------------------------------------------

    def _write(self, texts: Sequence[str]) -> list[list[str]]:
        """``n`` new queries of each text, as the decoder puts them."""
        _, model = self._loaded
        items = [(text, k) for text in texts for k in range(self.n)]
        try:
            new = generation.run(
                items,
                prepare=self._masked,
                answer=self._decoded,
                device=model.device,
                precision=self.precision,
                answer_tokens=self.max_length,
                batch_size=self.batch_size,
                verbose=self.verbose,
                desc="Perturbing",
                unit="q",
            )
        except generation.Unfinished as stopped:
            raise cast(Exception, stopped.__cause__) from None
        return [new[at : at + self.n] for at in range(0, len(new), self.n)]

    def _masked(self, items: Sequence[tuple[str, int]]) -> dict[str, Any]:
        """Tokens of queries, some of them masked."""
        tokenizer, _ = self._loaded
        shown = disarmed(tokenizer, [text for text, _ in items])
        with using(tokenizer):
            encoded = tokenizer(
                shown, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt",
                return_attention_mask=True,
            )  # fmt: skip
        features = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        for row, (text, k) in enumerate(items):
            self._mask_tokens(features["input_ids"][row], self._random(text, k))
        return features

    def _random(self, text: str, k: int) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed}\0{text}\0{k}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))

    def _mask_tokens(self, ids: torch.Tensor, rng: np.random.Generator) -> None:
        """Mask tokens of one query in place; neither control tokens nor padding."""
        import torch

        special = torch.tensor(self._loaded[0].all_special_ids)
        # A draw for each position, used or not, so that padding does not change what is drawn.
        draws = torch.as_tensor(rng.random(self.max_length)[: len(ids)])
        places = torch.nonzero((draws < self.mask) & ~torch.isin(ids, special))[:, 0].tolist()
        masks = self._masks if places else []
        for count, place in enumerate(places):
            ids[place] = masks[min(count, len(masks) - 1)]

    def _decoded(self, batch: dict[str, Any], items: Sequence[tuple[str, int]]) -> list[str]:
        """The queries that the decoder reads out of noisy states."""
        import torch
        from transformers import GenerationConfig
        from transformers.modeling_outputs import BaseModelOutput

        tokenizer, model = self._loaded
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
        states = model.get_encoder()(**inputs).last_hidden_state
        noise = np.zeros(states.shape, dtype=np.float32)
        for row, (item, length) in enumerate(zip(items, batch["attention_mask"].sum(dim=1).tolist(), strict=True)):
            rng = self._random(*item)
            rng.random(self.max_length)  # those that masked it
            noise[row, :length] = self.noise * rng.standard_normal((length, states.shape[-1]))
        noisy = states + torch.as_tensor(noise, device=states.device).to(states.dtype)
        config = GenerationConfig(
            max_new_tokens=self.max_length,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            decoder_start_token_id=decoder_start(model),
        )
        ids = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=noisy),
            attention_mask=inputs["attention_mask"],
            generation_config=config,
        )
        with using(tokenizer):
            return [clean(text) for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def __getstate__(self) -> dict[str, Any]:
        """Without the model, which is loaded again when needed."""
        held = self._held.carried()
        left = ("_masks",) if held.model is not None else ("_loaded", "_masks")
        return {**{name: value for name, value in self.__dict__.items() if name not in left}, "_held": held}

    def model_changes(self) -> dict[str, str]:
        """How the loaded model is not its checkpoint's: ``trained`` (other weights), ``reset`` (other settings)."""
        return self._held.changes()

    def __repr__(self) -> str:
        return shown(redaction.text(pta.transformer_repr(self)), self.model_changes())

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))
