"""Building the sentence-transformers model behind a BiEncoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...engine import batching, checkpoints, lengths, randomness
from ...frames import arguments

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn

    from .bi_encoder import BiEncoder


#: Names under which checkpoints keep the prompt of documents.
DOC_PROMPTS = ("document", "passage", "corpus")


def check_settings(pooling: str | None, **numbers: int | None) -> None:
    """Check a BiEncoder's pooling, and the settings that are numbers.

    Raises:
        ValueError: naming the first that cannot be.
    """
    if pooling not in (None, "mean", "cls"):
        raise ValueError(f"pooling must be 'mean' or 'cls', not {pooling!r}.")
    for name, value in numbers.items():
        arguments.whole(value, name, absent=True)


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


def build_for(student: BiEncoder) -> SentenceTransformer:
    """The model that a BiEncoder's settings ask for, with float32 weights, on its device.

    Raises:
        ValueError: if a setting does not fit the checkpoint.
    """
    import torch
    from sentence_transformers.base.modules import Router

    # Whoever asks first, these weights shall be trainable; what the checkpoint lacks is drawn, always the same.
    with torch.inference_mode(False), randomness.seeded(0):
        if isinstance(student.name_or_path, str):
            source = checkpoints.load_sentence_transformer(
                student.name_or_path, device="cpu", trust_remote_code=student.trust_remote_code
            )
        else:
            source = copy.deepcopy(student.name_or_path.model).float()
        model = build(
            source,
            name=_checkpoint_name(student),
            layers=student.layers,
            pooling=student.pooling,
            projection=student.projection,
            max_length=student.max_length,
            teacher=None if student._doc_encoder is None else student._doc_encoder.model,
            share_teacher=student.freeze_docs,
        )
        if student.freeze_docs and not isinstance(model[0], Router):
            raise ValueError("freeze_docs=True needs doc_encoder=: one encoder for both would leave nothing to train.")
        if student.prompts is not None:
            model.prompts = prompts_for(model.prompts, student.prompts)
        return model.to(batching.infer_device(student.device)).eval()


def _checkpoint_name(student: BiEncoder) -> str:
    """The checkpoint that the model is made of, through however many BiEncoders."""
    name = student.name_or_path
    return name if isinstance(name, str) else _checkpoint_name(name)


def told_layers(student: BiEncoder) -> int | None:
    """Layers that encode queries, if that is known without loading."""
    if student._weights.model is not None:
        config = getattr(next(iter(student.query_modules())), "config", None)
        return getattr(config, "num_hidden_layers", None)
    if student.layers is not None:
        return student.layers if isinstance(student.layers, int) else len(student.layers)
    name = student.name_or_path
    return checkpoints.told_layers(name) if isinstance(name, str) else told_layers(name)


def build(
    source: SentenceTransformer,
    *,
    name: str,
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
        name: of it, for what is said of it.
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
    from sentence_transformers.base.modules import Router

    routed = isinstance(source[0], Router)
    if teacher is None:
        check_similarity(name, source)
    if routed and teacher is None:
        if layers is not None or pooling is not None or projection is not None:
            raise ValueError(
                "layers, pooling, projection cannot change a saved asymmetric student; give doc_encoder= too."
            )
        if max_length is not None:
            for route in source[0].sub_modules.values():
                _cut_texts(name, route[0], max_length)
        return source
    queries = _changed(
        name, list(source[0].sub_modules["query"]) if routed else list(source), layers, pooling, projection, max_length
    )
    truncated = source.truncate_dim if projection is None else None  # new vectors are as long as asked for
    if teacher is None:
        return checkpoints.remade(source, queries, truncate_dim=truncated)
    documents = list(teacher[0].sub_modules["document"]) if isinstance(teacher[0], Router) else list(teacher)
    query_size, doc_size = dimension(queries, truncated), dimension(documents, teacher.truncate_dim)
    if query_size != doc_size:
        raise ValueError(
            f"the query encoder gives {query_size} dimensions and the document encoder {doc_size}:"
            f" pass projection={doc_size}."
        )
    router = Router.for_query_document(queries, documents if share_teacher else copy.deepcopy(documents))
    return checkpoints.remade(
        teacher,
        [router],
        prompts={**teacher.prompts, "query": source.prompts.get("query", "")},
        truncate_dim=doc_size if truncated or teacher.truncate_dim else None,
    )


def _changed(
    name: str,
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
            raise ValueError(f"layers={layers} is impossible: {type(modules[0]).__name__} is not a transformer.")
        checkpoints.cut_layers(modules[0].auto_model, layers)
    if max_length is not None:
        _cut_texts(name, modules[0], max_length)
    at = next((i for i, module in enumerate(modules) if isinstance(module, Pooling)), None)
    if pooling is not None:
        if at is None:
            raise ValueError(f"pooling={pooling!r} is impossible: this checkpoint has no pooling to change.")
        modules[at] = Pooling(modules[0].get_embedding_dimension(), pooling_mode=pooling)
    if projection is not None:
        import torch

        with randomness.seeded(0):  # the same student every time it is built
            dense = Dense(dimension(modules), projection, activation_function=torch.nn.Identity())
        modules.insert((len(modules) - 1 if at is None else at) + 1, dense)
    return modules


def _cut_texts(name: str, module: nn.Module, max_length: int) -> None:
    if hasattr(module, "auto_model"):
        lengths.check_length(name, module.auto_model, max_length)
    module.max_seq_length = max_length


def dimension(modules: list[nn.Module], truncated: int | None = None) -> int:
    """Length of the vectors that ``modules``, applied in turn, give, cut to ``truncated`` (None = whole).

    Raises:
        ValueError: if none of them says.
    """
    for module in reversed(modules):
        for name in ("get_embedding_dimension", "get_sentence_embedding_dimension"):
            if hasattr(module, name) and (found := getattr(module, name)()):
                return found if truncated is None else min(found, truncated)
    raise ValueError("this checkpoint does not say the dimension of its vectors.")


def check_similarity(name: str, model: SentenceTransformer) -> None:
    """Check that dot products rank as the checkpoint asks.

    Raises:
        ValueError: for distances.
    """
    asked = model.similarity_fn_name
    if asked not in ("cosine", "dot"):
        raise ValueError(
            f"{name!r} compares by {asked} distance, by which neither BiEncoder nor FlexIndex ranks: set"
            ' similarity_fn_name to "dot" or "cosine" in its config_sentence_transformers.json, and train it for that.'
        )
