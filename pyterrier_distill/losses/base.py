"""What a loss is, and the algebra: ``InfoNCE() + 3.0 * KLDivergence()``."""

from __future__ import annotations

import html
import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..frames import kind_of
from ..frames.arguments import Named
from ..frames.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor

#: What a student's forward pass can give. B queries, N documents a list, M documents a batch, D dimensions.
SCORES = "scores"  # [B, N]
QUERY_VECTORS = "query_vectors"  # [B, D]
QUERY_STATES = "query_states"  # [T, layers, D], T tokens of all queries
DOC_VECTORS = "doc_vectors"  # [B, N, D]
BATCH_SCORES = "batch_scores"  # [B, M], with batch_index [B, N]
LOGITS = "logits"  # [B, N, 2]: false, true
MODES = "modes"  # mode → Outputs, of a student that scores in several

#: On what scale a student's scores are: ``student.score_scale``.
LOGIT = "logit"  # any number; σ makes a probability of it
LOG_PROBABILITY = "log-probability"  # ≤ 0; exp makes a probability of it
COSINE = "cosine"  # between -1 and 1
DOT = "dot product"  # any number, of no unit
MAX_SIM = "sum of maximum similarities"  # one a token of the query, so nearly always far above 0
SCALES = frozenset({LOGIT, LOG_PROBABILITY, COSINE, DOT, MAX_SIM})

#: What a student gives without any document.
QUERY_SIDE = frozenset({QUERY_VECTORS, QUERY_STATES})

#: Why most students do not give it, and what to do.
HINTS = {
    MODES: (
        "it aligns the modes of one student that trains several, such as USTAD(path, modes=('cross', 'dual'));"
        ' to match a teacher\'s scores pass label="teacher_score"'
    ),
    BATCH_SCORES: (
        "scores of a query against the documents of others come from students that read documents alone (a USTAD"
        " without the cross mode); LocalizedContrastive() contrasts, and KLDivergence() compares, within a query's own"
        " list"
    ),
}

#: Beside label columns, where a loss contrasts with the documents of other queries: int64 ``[B, N, 2]``, a number for
#: the docno and one for the text of each document; ``[B, R]``, those of the documents known to be relevant to each
#: query, wherever they stand; and ``[B]``, one for the text of each query. 0 = none.
DOCUMENT_KEYS, RELEVANT_KEYS, QUERY_KEYS = "document_keys", "relevant_keys", "query_keys"


@dataclass
class Outputs:
    """One forward pass over a batch of lists; every term of a sum reads the same one.

    Attributes:
        mask: ``[B, N]`` bool, True = a real document.
        scores: ``[B, N]``, or None where no term asked for it (likewise below).
        query_vectors: ``[B, D]``.
        query_states: ``[T, layers, D]``: what each layer says of each token, queries one behind the other, padding left
            out.
        doc_vectors: ``[B, N, D]``.
        logits: ``[B, N, 2]``: of [false, true], raw.
        batch_scores: ``[B, M]``: each query against its own list and the documents of the others; −inf where a
            document must not count for a query.
        batch_index: int ``[B, N]``: the column of ``batch_scores`` where each document of the lists stands.
        modes: mode → its outputs, of a student that trains several ways of scoring at once (USTAD); None of others.
    """

    mask: Tensor
    scores: Any = None
    query_vectors: Any = None
    query_states: Any = None
    doc_vectors: Any = None
    logits: Any = None
    batch_scores: Any = None
    batch_index: Any = None
    modes: dict[str, Outputs] | None = None


class Loss(Named):
    """A training objective that says which student outputs and which label columns it reads.

    What a loss makes of a score decides which scales (``student.score_scale``) it fits; a Distiller refuses others:

    =========================================  =====  ===============  ======  ===========  =======
    a loss that reads                          logit  log-probability  cosine  dot product  MaxSim
    =========================================  =====  ===============  ======  ===========  =======
    σ(score) (BinaryCrossEntropy)              yes    no: ≤ 0.5        no [1]  yes          no: ≥ 0.5
    σ(s_i − s_j) (RankNet, PairwiseKL, ...)    yes    yes [2]          T       yes          yes
    softmax of a list (KLDivergence, ...)      yes    yes [2]          T       yes          yes
    the score itself (MSE, ScoreMatch, ...)    [3]    [3]              [3]     [3]          [3]
    =========================================  =====  ===============  ======  ===========  =======

    T: with a temperature of about 0.05, where the loss has one: differences of cosines are small, and a Distiller warns
    of temperature 1. [1] σ of a cosine is between 0.27 and 0.73. [2] A softmax of log-probabilities is p_i / Σ p, σ of
    a difference p_i / (p_i + p_j). [3] The teacher's scores must be on the same scale, which no column says;
    :class:`MarginMSE` needs the same unit alone.

    Losses are values: parameters go into the constructor, equality is equality of the repr, they add, and numbers
    scale them. A sum shares one forward pass. Subclasses store each constructor argument under its own name and define
    :attr:`needs`, :meth:`reads` and :meth:`__call__`.
    """

    #: Which attributes of :class:`Outputs` are read.
    needs: frozenset[str] = frozenset({SCORES})
    #: Least documents of a list for this loss to give a gradient.
    min_documents = 2
    #: The scales of scores that it fits.
    scales: frozenset[str] = SCALES
    #: Whether it matters which document of a list comes first.
    reads_order = False

    def reads(self) -> dict[str, Kind]:
        """The label columns that this loss reads from the training frame, and what kind of labels each holds."""
        return {column: kind_of(column) for column in (self.label,)}  # type: ignore[attr-defined]

    def columns(self) -> tuple[str, ...]:
        """The names of the columns of :meth:`reads`."""
        return tuple(self.reads())

    def misfit(self, scale: str) -> str:
        """Why scores of a scale that is not among :attr:`scales` do not fit, and what does, as half a sentence."""
        return f"takes scores that are {' or '.join(sorted(self.scales))}"

    def check_student(self, student: Any) -> None:
        """Check what of a student only this loss knows, before training.

        Raises:
            ValueError: saying what does not go together.
        """

    def check_vectors(self, dimensions: Mapping[str, int]) -> None:
        """Check, before training, that teachers' vectors which are compared with each other go together.

        Args:
            dimensions: column → length of its vectors.

        Raises:
            ValueError: naming the columns.
        """

    def reading(self, columns: Iterable[str]) -> Loss:
        """This loss, with its label columns chosen among those at hand, where it leaves a choice."""
        return self

    def __call__(self, outputs: Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        """Compute the loss.

        Args:
            outputs: the student's forward pass.
            labels: column → tensor: ``[B, N]`` for documents' numbers, ``[B, D]`` or ``[B, N, D]`` for vectors,
                ``[B, N, 2]`` for logits, ``[T, layers, D]`` for states of tokens, ``[P, 4]`` for preferences: query
                row, document i, document j, P(i ≻ j).

        Returns:
            A scalar.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is computed.")

    def total(self, outputs: Outputs, labels: Mapping[str, Tensor]) -> Tensor:
        """What training minimises: the loss, summed over the modes of a student that has several (USTAD Eq. 8).

        Args:
            outputs: as for calling it.
            labels: as for calling it; the same for all modes.
        """
        if outputs.modes is None:
            return self(outputs, labels)
        first, *others = (self(mode, labels) for mode in outputs.modes.values())
        return sum(others, start=first)

    def named(self) -> str:
        """The loss without its settings, for labels: ``InfoNCE + 3 KLDivergence``."""
        terms = (f"{'' if weight == 1 else f'{weight:g} '}{type(term).__name__}" for weight, term in self.terms())
        return " + ".join(terms)

    def _repr_html_(self) -> str:
        rows = []
        for weight, term in self.terms():
            settings = repr(term).removeprefix(type(term).__name__)[1:-1]
            cells = (f"{weight:g}", type(term).__name__, settings, ", ".join(term.columns()) or "nothing")
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
        head = "<tr><th>weight</th><th>loss</th><th>settings</th><th>reads</th></tr>"
        return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"

    def terms(self) -> list[tuple[float, Loss]]:
        """The weighted terms of a sum; a single loss is its own only term, with weight 1."""
        return [(1.0, self)]

    def __radd__(self, other: object) -> Loss:
        return self if other == 0 else NotImplemented  # sum() starts from 0

    def __add__(self, other: Loss) -> Loss:
        if not isinstance(other, Loss):
            return NotImplemented
        return WeightedSum(self.terms() + other.terms())

    def __mul__(self, weight: float) -> Loss:
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            return NotImplemented
        if not math.isfinite(weight):
            raise ValueError(f"the weight of a loss must be a finite number, not {weight!r}.")
        return WeightedSum([(float(weight) * w, term) for w, term in self.terms()])

    __rmul__ = __mul__

    def __repr__(self) -> str:
        settings = []
        for parameter in inspect.signature(type(self)).parameters.values():
            value = getattr(self, parameter.name)
            if value != parameter.default:
                settings.append(f"{parameter.name}={value!r}")
        return f"{type(self).__name__}({', '.join(settings)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loss) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class WeightedSum(Loss):
    """A sum of weighted losses. Not built by hand: write ``a + 3.0 * b``."""

    def __init__(self, weighted: list[tuple[float, Loss]]):
        self._terms = weighted
        self.needs = frozenset().union(*(term.needs for _, term in weighted))
        self.min_documents = min(term.min_documents for _, term in weighted)
        self.reads_order = any(term.reads_order for _, term in weighted)

    def terms(self) -> list[tuple[float, Loss]]:
        return list(self._terms)

    def reads(self) -> dict[str, Kind]:
        found: dict[str, Kind] = {}
        for _, term in self._terms:
            for column, kind in term.reads().items():
                if found.setdefault(column, kind) != kind:
                    raise ValueError(
                        f"{self!r} reads {column!r} as {type(found[column]).__name__} and as {type(kind).__name__}:"
                        " give one of its terms another column, label=."
                    )
        return found

    def reading(self, columns: Iterable[str]) -> Loss:
        columns = list(columns)
        return WeightedSum([(weight, term.reading(columns)) for weight, term in self._terms])

    def __call__(self, outputs: Outputs, labels: Mapping[str, Any]) -> Tensor:
        weight, first = self._terms[0]
        total = weight * first(outputs, labels)
        for weight, term in self._terms[1:]:
            total = total + weight * term(outputs, labels)
        return total

    def total(self, outputs: Outputs, labels: Mapping[str, Any]) -> Tensor:
        weight, first = self._terms[0]
        total = weight * first.total(outputs, labels)
        for weight, term in self._terms[1:]:
            total = total + weight * term.total(outputs, labels)
        return total

    def __repr__(self) -> str:
        return " + ".join(repr(term) if weight == 1 else f"{weight!r} * {term!r}" for weight, term in self._terms)


def check_scale(loss: Loss, student: Any, scale: str | None) -> None:
    """Check that every term of a loss fits a student, and the scale of its scores.

    Args:
        loss: the loss.
        student: for the message.
        scale: one of :data:`SCALES`; None = not known.

    Raises:
        ValueError: naming the first term that does not, and what does.
    """
    for _, term in loss.terms():
        term.check_student(student)
        if scale is not None and SCORES in term.needs and scale not in term.scales:
            raise ValueError(
                f"{term!r} does not fit {type(student).__name__}, whose score is a {scale}: it {term.misfit(scale)}."
            )


def check_batches(loss: Loss, queries: int, alone: bool) -> None:
    """Check that a batch holds something with which in-batch terms can compare.

    Args:
        loss: the loss.
        queries: of a batch, over all processes.
        alone: whether no list has more than one document.

    Raises:
        ValueError: naming the first term whose loss would be 0 at every step.
    """
    for _, term in loss.terms():
        if queries == 1 and BATCH_SCORES in term.needs and (alone or not getattr(term, "own_negatives", True)):
            raise ValueError(
                f"{term!r} compares a query with the documents of other queries, of which a batch of one query has"
                " none: take queries_per_batch of 2 or more."
            )


def lacking(loss: Loss, student: Any) -> str:
    """What a loss needs that a student does not give, why, and what to do, in a sentence or two."""
    absent = [(term, sorted(term.needs - student.gives)) for _, term in loss.terms() if term.needs - student.gives]
    who = type(student).__name__
    said = "; ".join(f"{term!r} needs {', '.join(outputs)}, which {who} does not give" for term, outputs in absent)
    hints = dict.fromkeys(HINTS[output] for _, outputs in absent for output in outputs if output in HINTS)
    return ": ".join([said, *hints]) + "."


def vectors_to_match(loss: Loss) -> list[str]:
    """The label columns of vectors that a student's are compared with: they must be of its dimension.

    A teacher's vectors of which only the products count may be of any.
    """
    of = [term.reads() for _, term in loss.terms() if term.needs & {QUERY_VECTORS, DOC_VECTORS}]
    return list(dict.fromkeys(column for reads in of for column, kind in reads.items() if kind.is_vector))


def judged_lists(relevance: Tensor, mask: Tensor) -> Tensor:
    """Which lists hold a relevant document, bool ``[B, 1]``: of the others nothing says that anybody judged them."""
    return ((relevance > 0) & mask).any(dim=-1, keepdim=True)
