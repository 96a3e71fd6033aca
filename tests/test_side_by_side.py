"""Queries asked about side by side by a backend that answers from several threads: none waits for another's answer."""

import threading
import time

import pandas as pd
import pytest

import pyterrier_distill as ptd
from pyterrier_distill.backends.base import Backend, BackendError, Usage
from pyterrier_distill.engine.locks import others_go_on
from pyterrier_distill.teachers.programs import Stopped, run_together


class Waiting(Backend):
    """Reverses each window; answers about one query wait, as a server's do; notes who works at the same time."""

    side_by_side = True
    at_once = 4

    def __init__(self, slow=None, fails=None):
        super().__init__()
        self.slow, self.fails = slow, fails
        self.asked, self.inside, self.most = [], 0, 0
        self.went_on = threading.Event()

    def generate(self, prompts, *, max_new_tokens, permutations=None):
        answers = []
        for prompt in map(str, prompts):
            query = next(q for q in ("q0", "q1", "q2", "q3", "q4", "q5") if f"about {q}" in prompt)
            if self.fails == query and query in self.asked:
                raise BackendError("no answer", [], 0)
            self.asked.append(query)
            if query != self.slow and self.asked.count(query) > 1:
                self.went_on.set()
            with self.usage.timed(), others_go_on():
                self.inside += 1
                self.most = max(self.most, self.inside)
                if query == self.slow and not self.went_on.wait(20):
                    raise TimeoutError("the others wait")
                time.sleep(0.005)
                self.inside -= 1
            shown = prompt.count("passage ")
            answers.append(" > ".join(f"[{n}]" for n in range(min(shown, 4), 0, -1)))
        return answers

    def decided_by(self):
        return {}


def frame(queries=6, depth=6):
    pairs = [(q, n) for q in range(queries) for n in range(depth)]
    rows = [(f"q{q}", f"about q{q}", f"d{n}", f"passage {n}", -float(n), n) for q, n in pairs]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "score", "rank"])


def teacher(backend, **settings):
    return ptd.ListwiseLLMTeacher(backend, window_size=4, stride=2, **settings)


def test_no_query_waits_for_another_and_labels_are_those_of_all_in_step():
    slow, in_step = Waiting(slow="q0"), Waiting()
    in_step.side_by_side = False
    found, expected = teacher(slow)(frame()), teacher(in_step)(frame())
    pd.testing.assert_frame_equal(found, expected)
    assert slow.went_on.is_set() and 1 < slow.most <= 4
    assert len(slow.asked) == len(in_step.asked)


def test_a_list_that_is_shown_several_times_takes_as_many_places():
    backend = Waiting()
    teacher(backend, n_permutations=2)(frame())
    assert backend.most <= 2


def test_what_was_finished_before_a_failure_is_kept():
    backend = Waiting(fails="q5")
    with pytest.raises(ptd.LabellingError, match="no answer") as raised:
        teacher(backend)(frame())
    finished = set(raised.value.labelled["qid"])
    assert finished and "q5" not in finished
    whole = teacher(Waiting())(frame())
    kept = raised.value.labelled.reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, whole[whole["qid"].isin(finished)].reset_index(drop=True))


def test_errors_of_other_kinds_are_the_callers_where_nothing_is_finished():
    def program():
        yield "question"

    def ask(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_together({1: program()}, ask, 2, apart=True)

    def done():
        return "result"
        yield

    with pytest.raises(Stopped) as stopped:
        run_together({1: done(), 2: program()}, ask, 1, apart=True)
    assert stopped.value.results == {1: "result"} and stopped.value.at == 2


def test_programs_work_one_at_a_time():
    """What a teacher counts is counted by one thread at a time."""
    working = threading.Lock()

    def program(n):
        for _ in range(20):
            assert working.acquire(blocking=False)
            time.sleep(0.0002)
            working.release()
            assert (yield n) == 2 * n
        return n

    def ask(questions):
        with others_go_on():
            time.sleep(0.0005)
        return [2 * question for question in questions]

    assert run_together({n: program(n) for n in range(12)}, ask, 5, apart=True) == {n: n for n in range(12)}


def test_seconds_side_by_side_count_once():
    usage, start = Usage(), threading.Barrier(3)

    def work():
        start.wait()
        with usage.timed():
            time.sleep(0.05)

    threads = [threading.Thread(target=work) for _ in range(3)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.05 <= usage.seconds <= time.monotonic() - began
    assert Usage(**usage.as_dict()) == usage
