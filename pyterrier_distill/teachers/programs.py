"""Many queries asked side by side, each of which needs an answer before it knows its next question."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from ..backends.base import BackendError
from ..engine.locks import in_turn

#: Yields questions, is sent their answers, and returns a query's result.
Program = Generator[Any, Any, Any]


class Stopped(Exception):
    """The model failed; what was finished is in ``results``.

    Attributes:
        results: key → result of the programs that finished.
        at: the key whose question failed.
    """

    def __init__(self, results: dict[Any, Any], at: Any):
        super().__init__()
        self.results = results
        self.at = at


def run_together(
    programs: Mapping[Any, Program],
    ask: Callable[[Sequence[Any]], Sequence[Any]],
    at_once: int,
    on_done: Callable[[], None] = lambda: None,
    *,
    apart: bool = False,
) -> dict[Any, Any]:
    """Run programs side by side, a question each at a time; a new one starts when one finishes.

    Args:
        programs: key → program.
        ask: questions → answers; a BackendError may carry the answers that came.
        at_once: programs that run side by side.
        on_done: called when one finishes.
        apart: whether each is asked about by itself, in a thread of its own, and goes on when its answer is there:
            for models that answer several side by side. Threads take turns but where they wait for an answer.

    Returns:
        key → what the program returned.

    Raises:
        Stopped: if the model failed, or anything else did once a program had finished.
    """
    if apart:
        return _run_apart(programs, ask, at_once, on_done)
    waiting = list(programs.items())[::-1]
    questions: dict[Any, Any] = {}
    results: dict[Any, Any] = {}

    def advance(key: Any, answer: Any) -> None:
        questions.pop(key, None)
        try:
            questions[key] = programs[key].send(answer)
        except StopIteration as stop:
            results[key] = stop.value
            on_done()

    while waiting or questions:
        while waiting and len(questions) < at_once:
            advance(waiting.pop()[0], None)
        asked = list(questions)
        if not asked:
            continue
        try:
            answers = ask([questions[key] for key in asked])
        except BackendError as error:
            got = error.answers if len(error.answers) == len(asked) else [None] * len(asked)
            for key, answer in zip(asked, got, strict=True):
                if answer is not None:
                    advance(key, answer)
            raise Stopped(results, asked[min(error.failed, len(asked) - 1)]) from error
        except Exception as error:  # whatever it is, what was finished is not lost
            if not results:
                raise
            raise Stopped(results, asked[0]) from error
        for key, answer in zip(asked, answers, strict=True):
            advance(key, answer)
    return results


def _run_apart(
    programs: Mapping[Any, Program], ask: Callable[[Sequence[Any]], Sequence[Any]], at_once: int, on_done: Any
) -> dict[Any, Any]:
    """As :func:`run_together`: no program waits for the answers of others."""
    lock = threading.Lock()
    left = iter(list(programs.items()))
    results: dict[Any, Any] = {}
    failures: list[tuple[Any, BaseException]] = []

    def work() -> None:
        with in_turn(lock):
            while not failures and (item := next(left, None)) is not None:
                key, program = item
                try:
                    question = next(program)
                    while not failures:
                        (answer,) = ask([question])
                        question = program.send(answer)
                except StopIteration as stop:
                    results[key] = stop.value
                    on_done()
                except BaseException as error:  # told by the thread that waits
                    failures.append((key, error))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(programs)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:  # nothing further is asked, and nobody waits for what is under way
        failures.append((None, error))
        raise
    if failures:
        key, cause = failures[0]
        if not isinstance(cause, Exception) or (not results and not isinstance(cause, BackendError)):
            raise cause
        raise Stopped(results, key) from cause
    return results
