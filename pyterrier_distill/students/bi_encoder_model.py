"""Building the sentence-transformers model behind a BiEncoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .. import checkpoints

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn


#: Names under which checkpoints keep the prompt of documents.
DOC_PROMPTS = ("document", "passage", "corpus")


def check_prompts(prompts: Mapping[str, str] | None) -> dict[str, str] | None:
    """A copy of ``prompts``, if they are those of queries and documents.

    Raises:
        TypeError: if they are no dict of texts.
        ValueError: for another side than these.
    """
    if prompts is None:
        return None
    if not isinstance(prompts, Mapping) or not all(isinstance(text, str) for text in prompts.values()):
        raise TypeError(f'prompts must be a dict of texts, such as {{"query": "query: "}}, not {prompts!r}.')
    if unknown := sorted(map(str, set(prompts) - {"query", "document"})):
        raise ValueError(f"prompts are those of 'query' and 'document', not of {', '.join(unknown)}.")
    return dict(prompts)


def prompts_for(own: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """A checkpoint's own prompts with those ``given`` in their place."""
    replaced = DOC_PROMPTS if "document" in given else ()
    return {**{name: text for name, text in own.items() if name not in replaced}, **given}


def build(
    source: SentenceTransformer,
    *,
    layers: int | Sequence[int] | None,
    pooling: str | None,
    projection: int | None,
    max_length: int | None,
    teacher: SentenceTransformer | None,
    share_teacher: bool,
) -> SentenceTransformer:
    """Change ``source`` as a BiEncoder's settings ask; it is used up.

    Args:
        source: the checkpoint. If it is asymmetric and there is a ``teacher``, its query side is taken.
        layers: as in BiEncoder, for the side that encodes queries (likewise the next three).
        pooling: as in BiEncoder.
        projection: as in BiEncoder.
        max_length: as in BiEncoder; for both sides of a saved asymmetric student.
        teacher: whose document side the new model takes.
        share_teacher: whether to take the teacher's modules themselves rather than a copy.

    Returns:
        A SentenceTransformer; asymmetric ones start with a Router that has the routes ``query`` and ``document``.

    Raises:
        ValueError: if a setting does not fit the checkpoint, or the two sides differ in dimension.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    routed = isinstance(source[0], Router)
    if routed and teacher is None:
        if layers is not None or pooling is not None or projection is not None:
            raise ValueError(
                "layers, pooling, projection cannot change a saved asymmetric student; give doc_encoder= too."
            )
        if max_length is not None:
            for route in source[0].sub_modules.values():
                _cut_texts(route[0], max_length)
        return source
    queries = _changed(
        list(source[0].sub_modules["query"]) if routed else list(source), layers, pooling, projection, max_length
    )
    if teacher is None:
        return SentenceTransformer(
            modules=queries, device="cpu", prompts=source.prompts, similarity_fn_name=source.similarity_fn_name
        )
    documents = list(teacher[0].sub_modules["document"]) if isinstance(teacher[0], Router) else list(teacher)
    if dimension(queries) != dimension(documents):
        raise ValueError(
            f"the query encoder gives {dimension(queries)} dimensions and the document encoder {dimension(documents)}:"
            f" pass projection={dimension(documents)}."
        )
    return SentenceTransformer(
        modules=[Router.for_query_document(queries, documents if share_teacher else copy.deepcopy(documents))],
        device="cpu",
        prompts={**teacher.prompts, "query": source.prompts.get("query", "")},
        similarity_fn_name=teacher.similarity_fn_name,
    )


def _changed(
    modules: list[nn.Module],
    layers: int | Sequence[int] | None,
    pooling: str | None,
    projection: int | None,
    max_length: int | None,
) -> list[nn.Module]:
    """``modules`` with layers cut, pooling changed, a projection put in behind it."""
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling

    if layers is not None:
        if not hasattr(modules[0], "auto_model"):
            raise ValueError(f"layers={layers} is impossible: {type(modules[0]).__name__} is no transformer.")
        checkpoints.cut_layers(modules[0].auto_model, layers)
    if max_length is not None:
        _cut_texts(modules[0], max_length)
    at = next((i for i, module in enumerate(modules) if isinstance(module, Pooling)), None)
    if pooling is not None:
        if at is None:
            raise ValueError(f"pooling={pooling!r} is impossible: this checkpoint has no pooling to change.")
        modules[at] = Pooling(modules[0].get_embedding_dimension(), pooling_mode=pooling)
    if projection is not None:
        import torch

        with torch.random.fork_rng(devices=[]):  # the same student every time it is built
            torch.manual_seed(0)
            dense = Dense(dimension(modules), projection, activation_function=torch.nn.Identity())
        modules.insert((len(modules) - 1 if at is None else at) + 1, dense)
    return modules


def _cut_texts(module: nn.Module, max_length: int) -> None:
    limit = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    if limit is not None and max_length > limit:
        raise ValueError(f"max_length={max_length} is impossible: this model reads at most {limit} tokens.")
    module.max_seq_length = max_length


def dimension(modules: list[nn.Module]) -> int:
    """Length of the vectors that ``modules``, applied in turn, give.

    Raises:
        ValueError: if none of them says.
    """
    for module in reversed(modules):
        for name in ("get_embedding_dimension", "get_sentence_embedding_dimension"):
            if hasattr(module, name) and (found := getattr(module, name)()):
                return found
    raise ValueError("this checkpoint does not say the dimension of its vectors.")
