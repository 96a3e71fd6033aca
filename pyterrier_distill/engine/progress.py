"""Progress bars and single lines, for people: shown at once where asked for, else once something takes long."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyterrier as pt

#: Seconds after which work shows a bar that nobody asked for; it goes again when the work is done.
PATIENCE = 3.0
#: Seconds between two states of a bar where nobody sees it move: a file, a pipe.
IN_A_LOG = 30.0


def bar(iterable: Any = None, *, verbose: bool | None, **options: Any) -> Any:
    """PyTerrier's progress bar; a state every half a minute where it is written to a log.

    Args:
        iterable: what is counted; None = by ``update``.
        verbose: True = shown; False = never; None = shown once the work has taken three seconds, and gone after it.
        **options: as tqdm takes them: ``total``, ``desc``, ``unit``.
    """
    if verbose is None:
        options |= {"delay": PATIENCE, "leave": False}
    if not (sys.stderr.isatty() or in_notebook()):
        options = {"mininterval": IN_A_LOG, "maxinterval": IN_A_LOG, **options}
    return pt.tqdm(iterable, disable=verbose is False, **options)


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ in ("ZMQInteractiveShell", "Shell")  # Colab's is called Shell


def say(text: str, verbose: bool | None = True) -> None:
    """One line beside the bars: below the cell in Jupyter, on standard error elsewhere.

    Args:
        text: what is said.
        verbose: False = nothing.
    """
    if verbose is not False:
        pt.tqdm.write(text, file=sys.stdout if in_notebook() else sys.stderr)


@contextmanager
def quiet_openings() -> Iterator[None]:
    """Within, ir_datasets does not say that it opens the same documents again, once a batch."""
    logger = logging.getLogger("ir_datasets")

    def new(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Opening ")

    logger.addFilter(new)
    try:
        yield
    finally:
        logger.removeFilter(new)


@contextmanager
def stopping(told: Callable[[], str]) -> Iterator[None]:
    """Within, Ctrl+C (or Jupyter's stop button) ends in one line that says what is kept and how to go on.

    Args:
        told: gives that line; not asked where something inside has said one.

    Raises:
        KeyboardInterrupt: with the line, and without the calls in which it was noticed.
    """
    try:
        yield
    except KeyboardInterrupt as stopped:
        line = stopped.args[0] if stopped.args else told()
    else:
        return
    raise KeyboardInterrupt(line) from None
