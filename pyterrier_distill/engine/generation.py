"""The generation loop: every answer that a local model writes goes through :func:`run`.

Items that are equal are answered once; the others stand beside those of like length, no more of them at once than
memory holds, and a batch that does not fit is halved and tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from . import batching, progress

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Item = TypeVar("Item", bound=Hashable)


class Unfinished(Exception):
    """The model failed; raised from what it raised.

    Attributes:
        answers: in the order of the items; None where there is none.
        at: the position of the first item of the batch that failed.
    """

    def __init__(self, answers: list[Any], at: int):
        super().__init__(f"{sum(one is not None for one in answers)} of {len(answers)} were answered.")
        self.answers = answers
        self.at = at


def run(
    items: Sequence[Item],
    *,
    prepare: Callable[[list[Item]], dict[str, Any]],
    answer: Callable[[dict[str, Any], list[Item]], list[T]],
    split: Callable[[dict[str, Any]], Iterable[tuple[torch.Tensor, dict[str, Any], Callable]]] | None = None,
    done: Callable[[dict[str, Any], list[T]], None] | None = None,
    device: torch.device,
    precision: str,
    answer_tokens: int,
    batch_size: int | None = None,
    verbose: bool | None = None,
    desc: str = "Generating",
    unit: str = "prompt",
) -> list[T]:
    """An answer to each item.

    Args:
        items: n of them, prompts for example; equal ones get one answer.
        prepare: tokenises m items to tensors ``[m, L]`` with an ``attention_mask``.
        answer: a batch and its items → their answers. Runs without gradients; may be called again for parts of a batch.
        split: tokenised features → parts that are answered apart: which rows ``[k]``, their features, and the
            ``answer`` of that part; every row stands in one. None = one part.
        done: called with each finished batch and its answers, for counting.
        device: where the model is.
        precision: see :func:`~.batching.resolve_precision`.
        answer_tokens: most tokens of an answer: while it is written, each item's cache grows by them.
        batch_size: most items of a batch; None = as many as fit.
        verbose: True = progress is shown, False = never; None = once it takes more than three seconds.
        desc: what the progress bar says.
        unit: what it counts.

    Returns:
        In the order of ``items``.

    Raises:
        Unfinished: if the model fails; it carries what was answered.
    """
    import torch

    from . import inference

    distinct = sorted(dict.fromkeys(items), key=batching.characters, reverse=True)
    budget = 4 * batching.TOKEN_BUDGET.get(device.type, batching.TOKEN_BUDGET["cpu"])
    answers: dict[Item, T] = {}
    with (
        torch.inference_mode(),
        inference.computing(batching.half(precision, device), device),  # each token reads all weights
        progress.bar(total=len(distinct), desc=desc, unit=unit, verbose=verbose) as bar,
    ):
        for start in range(0, len(distinct), batching.BUFFER):
            chunk = distinct[start : start + batching.BUFFER]
            features = prepare(chunk)
            parts = [(torch.arange(len(chunk)), features, answer)] if split is None else split(features)
            asked: list[Item] = []
            try:
                for of_part, part, say in parts:
                    for positions, batch in batching.pack(part, budget, batch_size, answer_tokens):
                        asked = [chunk[int(position)] for position in of_part[positions]]
                        found = _in_halves(batch, asked, say)
                        answers.update(zip(asked, found, strict=True))
                        if done is not None:
                            done(batch, found)
                        bar.update(len(asked))
                        asked = []
            except Exception as error:
                failed = asked[0] if asked else next(item for item in chunk if item not in answers)
                raise Unfinished([answers.get(item) for item in items], items.index(failed)) from error
    return [answers[item] for item in items]


def _in_halves(
    batch: dict[str, Any], items: list[Item], answer: Callable[[dict[str, Any], list[Item]], list[T]]
) -> list[T]:
    """Answers to a batch; to its halves, one after the other, if it does not fit in memory."""
    import torch

    size = len(items)
    try:
        return answer(batch, items)
    except Exception as error:
        if size < 2 or not batching.out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    first, second = torch.arange(size // 2), torch.arange(size // 2, size)
    return [
        *_in_halves(batching.take(batch, first), items[: size // 2], answer),
        *_in_halves(batching.take(batch, second), items[size // 2 :], answer),
    ]
