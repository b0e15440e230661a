"""The limit's closed loop, with workers that sleep in place of processes that score."""

import threading
import time
from multiprocessing import Pipe

import pytest

from dualpath.compare import limit as module
from dualpath.compare.limit import Limit, Plan


@pytest.fixture
def limit(monkeypatch):
    """Two workers that take 5 ms a row; what they were sent is in `seen`."""
    made = object.__new__(Limit)
    made._plan, made._workers, made.seen = Plan(2, 1, 2), [], []

    def work(connection):
        while (rows := connection.recv()) is not None:
            made.seen.append(rows)
            time.sleep(0.005 * len(rows))
            connection.send(None)

    threads = []
    for _ in range(2):
        ours, theirs = Pipe()
        made._workers.append(ours)
        threads.append(threading.Thread(target=work, args=(theirs,)))
        threads[-1].start()
    yield made
    for worker in made._workers:
        worker.send(None)
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(("n_visible", "duration_s"), [(1, 0.1), (8, 0.1), (8, 0.0)])
def test_every_row_is_answered_and_each_places_first_does_not_count(limit, monkeypatch, n_visible, duration_s):
    given = {}

    def answers_per_s(answers, begin, end):
        given.update(answers=answers, begin=begin, end=end)
        return 40.0

    monkeypatch.setattr(module, "answers_per_s", answers_per_s)
    turn = limit.run_turn([b"a" * n for n in range(1, 20)], [0.5], n_visible, duration_s)
    assert turn.n_rows == len(turn.all_ms()) == sum(map(len, limit.seen)) >= n_visible
    assert turn.rows_per_s == 40
    assert len(given["answers"]) == turn.n_rows - n_visible
    assert max((sent for sent, _ in given["answers"]), default=0) < given["begin"] + duration_s
    if duration_s:  # else some place may have had its first row only
        assert given["end"] >= given["begin"] + duration_s


def test_rows_without_bert_leave_together_and_others_in_chunks_of_like_length(limit):
    limit.run_turn([b"a", b"a" * 50, b"aa", b"a" * 51], [0.5], 4, 0.0)
    assert sorted(sorted(len(excerpt) for excerpt, _ in rows) for rows in limit.seen[:2]) == [[1, 2], [50, 51]]
    limit.seen.clear()
    limit.run_turn([b"a"] * 8, [0.0], 8, 0.0)
    assert len(limit.seen[0]) == 8
