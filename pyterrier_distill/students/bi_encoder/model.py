"""Building the sentence-transformers model behind a BiEncoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...engine import batching, checkpoints, lengths, randomness
from ...engine.tokens import append_end
from ...frames import arguments
from . import adapter, apart
from . import similarity as compared
from .modules import dimension, routed, side

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn

    from .bi_encoder import BiEncoder


POOLINGS = ("mean", "cls", "lasttoken")
#: Names under which checkpoints keep the prompt of documents.
DOC_PROMPTS = ("document", "passage", "corpus")


def check_settings(pooling: str | None, **numbers: int | None) -> None:
    """Check a BiEncoder's pooling, and the settings that are numbers.

    Raises:
        ValueError: naming the first that cannot be.
    """
    if pooling not in (None, *POOLINGS):
        raise ValueError(f"pooling must be {', '.join(map(repr, POOLINGS[:-1]))} or {POOLINGS[-1]!r}, not {pooling!r}.")
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

    adapter.check_source(student)
    # Whoever asks first, these weights shall be trainable; what the checkpoint lacks is drawn, always the same.
    with torch.inference_mode(False), randomness.seeded(0):
        if isinstance(student.name_or_path, str):
            source = checkpoints.load_sentence_transformer(
                student.name_or_path, device="cpu", trust_remote_code=student.trust_remote_code
            )
        else:
            source = adapter.copied(student.name_or_path).float()
        teacher = None if student.apart else student._doc_encoder
        refers = student.apart and not apart.is_given(student)
        if student.append_eos or (student.pooling == "lasttoken" and _is_plain(student.name_or_path)):
            _read_as_text(source)
        model = build(
            source,
            name=_checkpoint_name(student),
            layers=student.layers,
            pooling=student.pooling,
            projection=student.projection,
            max_length=student.max_length,
            similarity=compared.asked(student) if refers else student.similarity,
            append_eos=student.append_eos,
            teacher=None if teacher is None else adapter.whole(teacher),
            share_teacher=student.freeze_docs,
            vectors=apart.vectors(student),
        )
        if student.freeze_docs and not student.apart and not routed(model):
            raise ValueError("freeze_docs=True needs doc_encoder=: one encoder for both would leave nothing to train.")
        if student.prompts is not None:
            model.prompts = prompts_for(model.prompts, student.prompts)
        return model.to(batching.infer_device(student.device)).eval()


def _is_plain(source: str | BiEncoder) -> bool:
    """Whether a checkpoint is transformers' own, of which sentence-transformers makes a model by its defaults."""
    return isinstance(source, str) and not checkpoints.told(source, "modules.json")


def _read_as_text(model: SentenceTransformer) -> None:
    """Read queries as texts, in place: sentence-transformers makes chat messages of them where there is a template."""
    for module in model[0].sub_modules["query"] if routed(model) else model:
        kinds = getattr(module, "modality_config", {})
        if others := {kind: way for kind, way in kinds.items() if kind != "message"}:
            module.modality_config = others
            module.input_formatter.supported_modalities = list(others)


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
    similarity: str | None,
    append_eos: bool,
    teacher: SentenceTransformer | None,
    share_teacher: bool,
    vectors: apart.Vectors | None,
) -> SentenceTransformer:
    """Change ``source`` as a BiEncoder's settings ask; it is used up.

    Args:
        source: the checkpoint. If it is asymmetric and its documents are encoded otherwise, its query side is taken.
        name: of it, for what is said of it.
        layers: as in BiEncoder, for the side that encodes queries (likewise the next three, and ``append_eos``).
        pooling: as in BiEncoder.
        projection: as in BiEncoder.
        max_length: as in BiEncoder; for both sides of a saved asymmetric student.
        similarity: as in BiEncoder.
        append_eos: as in BiEncoder.
        teacher: whose document side the new model takes.
        share_teacher: whether to take the teacher's modules themselves rather than a copy.
        vectors: what is known of documents' vectors that no part of the model makes.

    Returns:
        A SentenceTransformer; asymmetric ones start with a Router that has the routes ``query`` and ``document``,
        unless the documents' vectors come from elsewhere.

    Raises:
        ValueError: if a setting does not fit the checkpoint, or the two sides differ in dimension.
    """
    from sentence_transformers.base.modules import Router

    if teacher is None and similarity is None and vectors is None:
        compared.check_distance(name, source)
    if routed(source) and teacher is None and vectors is None:
        return _saved(source, name, layers, pooling, projection, max_length, similarity, append_eos)
    queries = list(source[0].sub_modules["query"]) if routed(source) else list(source)
    queries = _changed(name, queries, layers, pooling, projection, max_length, append_eos)
    truncated = source.truncate_dim if projection is None else None  # new vectors are as long as asked for
    if teacher is None:
        if vectors is not None:
            similarity = vectors.agreed(similarity)
            _check_dimension(dimension(queries, truncated), vectors.dimension)
        changed = {} if similarity is None else {"similarity_fn_name": compared.NAMES[similarity]}
        queries = compared.unscaled(queries) if similarity == compared.DOT else queries
        return checkpoints.remade(source, queries, truncate_dim=truncated, **changed)
    documents = list(side(teacher, "document"))
    query_size, doc_size = dimension(queries, truncated), dimension(documents, teacher.truncate_dim)
    _check_dimension(query_size, doc_size)
    documents = documents if share_teacher else copy.deepcopy(documents)
    settings: dict[str, Any] = {"truncate_dim": doc_size if truncated or teacher.truncate_dim else None}
    if similarity is not None:
        if share_teacher and similarity == compared.COSINE != compared.compares(teacher):
            raise ValueError(compared.OTHERWISE)
        if similarity == compared.DOT:
            queries = compared.unscaled(queries)
            if teacher.similarity_fn_name == compared.NAMES[compared.COSINE]:  # documents' vectors stay what they are
                documents = compared.scaled(documents)
        settings["similarity_fn_name"] = compared.NAMES[similarity]
    prompts = {**teacher.prompts, "query": source.prompts.get("query", "")}
    return checkpoints.remade(teacher, [Router.for_query_document(queries, documents)], prompts=prompts, **settings)


def _check_dimension(queries: int, documents: int) -> None:
    if queries != documents:
        raise ValueError(
            f"the query encoder gives {queries} dimensions and the document encoder {documents}:"
            f" pass projection={documents}."
        )


def _saved(
    source: SentenceTransformer,
    name: str,
    layers: int | Sequence[int] | None,
    pooling: str | None,
    projection: int | None,
    max_length: int | None,
    similarity: str | None,
    append_eos: bool,
) -> SentenceTransformer:
    """A saved asymmetric student, which is what it is but for the length of texts."""
    other = similarity not in (None, compared.compares(source))
    if layers is not None or pooling is not None or projection is not None or other or append_eos:
        raise ValueError(
            "layers, pooling, projection, similarity, append_eos cannot change a saved asymmetric student; give"
            " doc_encoder= too."
        )
    if max_length is not None:
        for route in source[0].sub_modules.values():
            _cut_texts(name, route[0], max_length)
    return source


def _changed(
    name: str,
    modules: list[nn.Module],
    layers: int | Sequence[int] | None,
    pooling: str | None,
    projection: int | None,
    max_length: int | None,
    append_eos: bool,
) -> list[nn.Module]:
    """``modules`` with layers cut, pooling changed, a projection put in behind it; texts end as asked for."""
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling

    if layers is not None:
        if not hasattr(modules[0], "auto_model"):
            raise ValueError(f"layers={layers} is impossible: {type(modules[0]).__name__} is not a transformer.")
        checkpoints.cut_layers(modules[0].auto_model, layers)
    if max_length is not None:
        _cut_texts(name, modules[0], max_length)
    if append_eos:
        append_end(name, getattr(modules[0], "tokenizer", None))
    at = next((i for i, module in enumerate(modules) if isinstance(module, Pooling)), None)
    if pooling is not None:
        if at is None:
            raise ValueError(f"pooling={pooling!r} is impossible: this checkpoint has no pooling to change.")
        modules[at] = Pooling(modules[0].get_embedding_dimension(), pooling_mode=pooling)
    if projection is not None:
        import torch

        with randomness.seeded(0):  # the same student every time it is built
            dense = Dense(dimension(modules), projection, activation_function=torch.nn.Identity())
        place = len(modules) if at is None else at + 1
        while place < len(modules) and isinstance(modules[place], Dense):  # those that the checkpoint has come first
            place += 1
        modules.insert(place, dense)
    return modules


def _cut_texts(name: str, module: nn.Module, max_length: int) -> None:
    if hasattr(module, "auto_model"):
        lengths.check_length(name, module.auto_model, max_length)
    module.max_seq_length = max_length
