"""Queries for documents, written by a language model."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyterrier_alpha as pta

from .. import prompts
from ..backends.base import Backend, BackendError
from ..backends.chosen import check_engine, checked_backend
from ..backends.completions import Completion, Sampling
from ..backends.usage import Usage
from ..engine import batching
from ..engine.locks import once
from ..engine.model_state import shown
from ..stores import redaction
from .answers import OUTCOMES, Reader, has_ended, key_of
from .examples import Example, FewShot
from .prompts import check_examples, query_prompts, query_template, shown_document, shown_examples
from .queries import ReadsDocuments, check_text_field, document_texts, with_queries

logger = logging.getLogger(__name__)


class GenerationError(RuntimeError):
    """A model gave no answer; what it had written is not lost.

    Attributes:
        generated: a D frame: the documents whose queries were complete, as the generator would have returned them.
    """

    def __init__(self, message: str, generated: pd.DataFrame):
        super().__init__(message)
        self.generated = generated

    def __reduce__(self) -> tuple:
        return type(self), (str(self), self.generated)


class SyntheticQueryGen(ReadsDocuments):
    """D → D with ``querygen``, queries separated by newlines, and ``querygen_score``.

    A score is the mean log-probability (natural logarithm, at most 0) of the tokens that spell the query, by the
    model's own distribution (with vLLM by the one that they are drawn from); float32 ``[lines]``, one a line of
    ``querygen``, NaN where the backend returns none. A document without queries has ``""`` and one NaN, and so has one
    without words, about which the model is not asked.

    Of each answer the first line counts, without a label such as "Query:", a number or quotes round it. Repetitions of
    a document's queries (or of an example's), overlong, empty and wordless answers are dropped; :attr:`responses`
    counts them. A document's queries depend on the seed, its docno and its text, not on what else is in the frame.

    Args:
        model: the directory or hub name of a causal or encoder-decoder checkpoint, or a GGUF file; or a backend
            (``HF``, ``VLLM``, ``OpenAI``); or anything with ``generate(prompts) -> outputs with .text``, as
            pyterrier_rag's backends have, which returns no scores and samples as it was set up to.
        prompt: ``"inpars"`` (three examples), ``"gbq"`` (with bad questions, too), ``"promptagator"`` (examples of the
            task; needs ``examples``), ``"doc2query"`` (the document alone, for a model trained for it); a text with
            ``{document}`` and, for examples, ``{examples}``; or a ``Template`` whose ``line`` shows one example
            (``{document}``, ``{query}``, ``{bad}``, ``{id}``).
        examples: ``(document, query)`` pairs, ``(document, good, bad)`` triples, or a :class:`FewShot`; None = ours.
        n: answers of a document.
        backend: what runs ``model`` when it is a name: ``"hf"`` or ``"vllm"``; or a backend, with ``model`` None.
        temperature: 0 = always the likeliest token; None = 1 where tokens are drawn, for several queries or with
            ``top_p`` or ``top_k``, else 0.
        top_p: only the likeliest tokens whose probabilities reach this sum are drawn.
        top_k: only the k likeliest tokens are drawn; 0 = all. doc2query's authors take 10.
        seed: another seed, other draws.
        max_new_tokens: tokens of an answer.
        max_words: longer queries are dropped; None = any length.
        document_words: words of a document, and of an example's, that are shown; cut further where the prompt would
            not fit. Nothing but documents is ever cut. InPars shows 256 tokens.
        drop_copied: whether queries whose words stand so in the document are dropped, not only counted.
        max_length: tokens of prompt and answer; None = the checkpoint's own.
        precision: ``auto`` | ``fp32`` | ``bf16`` | ``fp16``.
        batch_size: most prompts of one forward pass.
        text_field: the column of text, or several, joined by a space.
        device: None = the GPU where there is one.
        revision: of a hub model.
        verbose: True = progress is shown, False = never; None = once it takes more than three seconds.
        trust_remote_code: whether a hub model may bring its own code.

    Attributes:
        responses: how many answers were ``ok``, ``copied`` from the document, a ``duplicate``, ``overlong``, ``empty``,
            or ``no_text``, since it was made.

    Raises:
        ValueError: for impossible settings.
        GenerationError: if the model fails; it carries the documents that were complete.

    References:
        Bonifacio et al. 2022 (InPars); Dai et al. 2023 (Promptagator); Nogueira and Lin 2019 (docTTTTTquery); InRanker
        §3, which makes its training data so.

    Example::

        generator = ptd.SyntheticQueryGen("google/gemma-3-1b-pt", examples=ptd.FewShot(topics, qrels, dataset))
        queries = (ptd.QueryStore("queries").cache(generator) >> ptd.explode_queries())(documents)
    """

    schematic = {"label": "SyntheticQueryGen"}

    def __init__(
        self,
        model: str | os.PathLike | Backend | Any = None,
        prompt: str | prompts.Template = "inpars",
        examples: FewShot | Sequence[Sequence[str]] | None = None,
        n: int = 1,
        *,
        backend: str | Backend | Any = "hf",
        temperature: float | None = None,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 42,
        max_new_tokens: int = 64,
        max_words: int | None = 40,
        document_words: int | None = 200,
        drop_copied: bool = False,
        max_length: int | None = None,
        precision: str = "auto",
        batch_size: int | None = None,
        text_field: str | list[str] = "text",
        device: str | None = None,
        revision: str | None = None,
        verbose: bool | None = None,
        trust_remote_code: bool = False,
    ):
        for name, value in (
            ("n", n), ("max_new_tokens", max_new_tokens), ("max_words", max_words), ("document_words", document_words)
        ):  # fmt: skip
            absent = value is None and name.endswith("_words")
            if not absent and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
        check_engine(model, backend)
        self.model = os.fspath(model) if isinstance(model, os.PathLike) else model
        self.prompt = prompt
        self.examples = examples
        self.n = n
        self.backend = backend
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.seed = seed
        self.max_new_tokens = max_new_tokens
        self.max_words = max_words
        self.document_words = document_words
        self.drop_copied = drop_copied
        self.max_length = max_length
        self.precision = batching.check_precision(precision)
        self.batch_size = batch_size
        self.text_field = check_text_field(text_field)
        self.device = device
        self.revision = revision
        self.verbose = verbose
        self.trust_remote_code = trust_remote_code
        self.responses: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self._sampling()
        check_examples(prompt, examples)

    # -- what is asked ------------------------------------------------------------------------------------------------

    @property
    def template(self) -> prompts.Template:
        """The prompt as data."""
        return query_template(self.prompt)

    @once
    def _shown(self) -> list[Example]:
        """The examples, as the prompt shows them."""
        return shown_examples(self.template, self.examples, self.document_words, self.llm)

    @property
    def example_qids(self) -> list[str]:
        """The queries whose examples a :class:`FewShot` has drawn: to be left out of an evaluation."""
        return list(self.examples.example_qids) if isinstance(self.examples, FewShot) else []

    def prompts(self, texts: Sequence[str]) -> list[prompts.Prompt]:
        """The prompt for each document: only documents are cut, longest first, until it fits."""
        documents = [shown_document(text, self.document_words, self.llm) for text in texts]
        return query_prompts(self.template, self._shown, documents, self.llm, self.max_new_tokens)

    # -- who answers --------------------------------------------------------------------------------------------------

    @once
    def llm(self) -> Backend:
        """The backend."""
        names = ("max_length", "precision", "batch_size", "device", "revision", "trust_remote_code")
        settings = {name: getattr(self, name) for name in names}
        engine = self.backend if isinstance(self.backend, str) else "hf"
        given = self.model if isinstance(self.backend, str) else self.backend
        backend = checked_backend(given, settings, "SyntheticQueryGen", engine)
        if isinstance(given, str) and engine == "hf":
            backend.verbose = self.verbose  # type: ignore[attr-defined]
        return backend

    @property
    def usage(self) -> Usage:
        """Model calls, tokens and seconds so far."""
        return self.llm.usage

    def _sampling(self) -> Sampling | None:
        drawn = self.n > 1 or self.top_k != 0 or self.top_p != 1
        temperature = float(drawn) if self.temperature is None else self.temperature
        if temperature == 0:
            if drawn:
                raise ValueError(
                    "with temperature=0 nothing is drawn and all n queries would be the same: leave it out."
                )
            return None
        return Sampling(temperature, self.top_p, self.top_k)

    def _seeds(self, docno: str) -> list[int]:
        """One an answer."""
        if self._sampling() is None:
            return [0]
        digests = (hashlib.sha256(f"{self.seed}\0{docno}\0{i}".encode()).digest() for i in range(self.n))
        return [int.from_bytes(digest[:4], "big") >> 1 for digest in digests]

    def estimate(self, inp: pd.DataFrame) -> Usage:
        """What the queries of ``inp`` would cost, without asking the model; output tokens are the most there can be."""
        texts = [text for text in document_texts(inp, self.text_field, self) if text.split()]
        calls = len(texts) * self.n
        size = sum(self.llm.prompt_sizes(self.prompts(texts))) if texts else 0
        return Usage(calls, size * self.n, calls * self.max_new_tokens)

    # -- the frame ----------------------------------------------------------------------------------------------------

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``querygen`` and ``querygen_score``; every other column, the rows' order and the index stay."""
        texts = document_texts(inp, self.text_field, self)
        rows = [row for row, text in enumerate(texts) if text.split()]
        if not rows:
            return with_queries(inp, [[]] * len(inp), [[]] * len(inp))
        with self.llm.tokenised_once():
            return self._written(inp, texts, rows)

    def _written(self, inp: pd.DataFrame, texts: Sequence[str], rows: Sequence[int]) -> pd.DataFrame:
        """``inp`` with queries of the texts in ``rows``, none of the others."""
        seeds = [self._seeds(str(docno)) for docno in inp["docno"].iloc[rows]]
        asked = [prompt for prompt in self.prompts([texts[row] for row in rows]) for _ in range(self.n)]
        try:
            answers: list[Any] = self.llm.complete(
                asked,
                max_new_tokens=self.max_new_tokens,
                sampling=self._sampling(),
                seeds=[seed for each in seeds for seed in each],
                until=has_ended,
            )
        except BackendError as error:
            answers = error.answers if len(error.answers) == len(asked) else [None] * len(asked)
            groups = [answers[at : at + self.n] for at in range(0, len(answers), self.n)]
            done = [i for i, group in enumerate(groups) if None not in group]
            some = inp.iloc[[rows[i] for i in done]]
            read = self._read([texts[rows[i]] for i in done], [groups[i] for i in done])
            docno = inp["docno"].iloc[rows[error.failed // self.n]]
            raise GenerationError(
                f"no query for document {docno!r}: {error} The queries of {len(done)} documents are complete; they are"
                " in this error's .generated.",
                with_queries(some, *read),
            ) from error
        groups = [answers[at : at + self.n] for at in range(0, len(answers), self.n)]
        queries, scores = self._read([texts[row] for row in rows], groups)
        by_row = dict(zip(rows, zip(queries, scores, strict=True), strict=True))
        cells = [by_row.get(row, ([], [])) for row in range(len(inp))]
        return with_queries(inp, [cell[0] for cell in cells], [cell[1] for cell in cells])

    def _read(
        self, texts: Sequence[str], groups: Sequence[Sequence[Completion]]
    ) -> tuple[list[list[str]], list[list[float]]]:
        """The queries of each document, and their scores."""
        known = [key_of(example.query) for example in self._shown]
        queries: list[list[str]] = []
        scores: list[list[float]] = []
        for text, answers in zip(texts, groups, strict=True):
            reader = Reader(text, self.max_words, self.drop_copied, known)
            read = [reader.read(answer) for answer in answers]
            self.responses.update(outcome for *_, outcome in read)
            queries.append([query for query, *_ in read if query])
            scores.append([score for query, score, _ in read if query])
        if any(math.isnan(score) for each in scores for score in each) and not self.__dict__.get("_warned"):
            self._warned = True
            logger.warning("%r tells no log-probabilities: querygen_score is NaN.", self.llm)
        return queries, scores

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be made again, such as a loaded model."""
        left = ("_shown",) if self.model_changes() else ("llm", "_shown")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def model_changes(self) -> dict[str, str]:
        """How the model that was loaded by its name is not that checkpoint's any more; empty where it is."""
        changes = getattr(self.__dict__.get("llm"), "model_changes", None)
        return changes() if isinstance(self.model, str) and callable(changes) else {}

    def __repr__(self) -> str:
        return shown(redaction.text(pta.transformer_repr(self)), self.model_changes())

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))
