"""Frames: what their columns mean, checks of them, rankings, judgements and texts."""

from .cells import check_numbers, check_vectors, pad_lists
from .checks import MissingLabelError, check_results, check_text, check_unique, require_columns
from .columns import (
    DOC_EMBS,
    DOC_VEC,
    LABEL,
    LABEL_COLUMNS,
    QUERY_EMBS,
    QUERY_STATES,
    QUERY_VEC,
    TEACHER_LOGITS,
    TEACHER_PREFS,
    TEACHER_RANK,
    TEACHER_SCORE,
    LabelColumn,
    ascending,
    kind_of,
    known,
    label_source,
)
from .qrels import check_qrels, join_judgements, join_qrels, judgements

__all__ = [
    "DOC_EMBS",
    "DOC_VEC",
    "LABEL",
    "LABEL_COLUMNS",
    "LabelColumn",
    "MissingLabelError",
    "QUERY_EMBS",
    "QUERY_STATES",
    "QUERY_VEC",
    "TEACHER_LOGITS",
    "TEACHER_PREFS",
    "TEACHER_RANK",
    "TEACHER_SCORE",
    "ascending",
    "check_numbers",
    "check_qrels",
    "check_results",
    "check_text",
    "check_unique",
    "check_vectors",
    "join_judgements",
    "join_qrels",
    "judgements",
    "kind_of",
    "known",
    "label_source",
    "pad_lists",
    "require_columns",
]
