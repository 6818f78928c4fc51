"""How nodes are drained, and how departures of workers are judged."""

import queue
import threading

import pytest

from llmbatch.api.progress import Drains
from llmbatch.errors import TransientError
from llmbatch.runtime.pools.drains import DrainTally, NodeErrand


class SilentNodes:
    """A Ray whose answers for a node come when the test says so."""

    def __init__(self):
        self.asked = queue.Queue()
        self._answers = queue.Queue()

    def drain(self, node_id, deadline):
        self.asked.put((node_id, deadline))
        error = self._answers.get(timeout=10)
        if error is not None:
            raise error

    def answer(self, error=None):
        self._answers.put(error)
        for thread in threading.enumerate():
            if thread.name == "errand":
                thread.join(10)


def test_a_node_that_does_not_answer_holds_nobody_up_and_is_asked_once():
    ray = SilentNodes()
    drains = NodeErrand(ray.drain)
    drains.ask("a", 5.0)
    drains.ask("a", 5.0)
    assert ray.asked.get(timeout=10) == ("a", 5.0)
    ray.answer()
    drains.ask("a", 5.0)
    assert ray.asked.empty()


@pytest.mark.parametrize("error", [TransientError("not among the draining nodes"), RuntimeError("Ray's own")])
def test_a_drain_that_failed_is_tried_again(error):
    ray = SilentNodes()
    drains = NodeErrand(ray.drain)
    drains.ask("a", 5.0)
    ray.answer(error)
    drains.ask("a", 6.0)
    ray.answer()
    assert [ray.asked.get(timeout=10) for _ in range(2)] == [("a", 5.0), ("a", 6.0)]


def judged(tally, torn=(), now=100.0):
    tally.update({}, (), (), (), torn, now)
    return tally.counts()


def test_a_worker_is_clean_late_or_missed_by_when_it_was_empty():
    tally = DrainTally()
    doomed = {"clean": 10.0, "late": 10.0, "missed": 10.0}
    tally.update(doomed, doomed, doomed, set(), (), 5.0)
    tally.update(doomed, doomed, doomed, {"clean"}, (), 8.0)
    tally.update(doomed, doomed, doomed, {"clean", "late"}, (), 11.0)
    tally.update({}, (), (), (), (), 12.0)
    assert tally.counts() == Drains()
    assert judged(tally, torn={"missed"}) == Drains(clean=1, late=1, missed=1)


def test_a_worker_that_empties_and_goes_between_two_looks_is_clean():
    tally = DrainTally()
    tally.update({"n": 10.0}, {"n"}, {"n"}, (), (), 5.0)
    tally.update({}, (), (), (), (), 5.5)
    assert judged(tally) == Drains(clean=1)


def test_a_worker_that_got_work_again_was_not_empty():
    tally = DrainTally()
    for empty, now in (({"n"}, 1.0), ((), 2.0), ({"n"}, 11.0)):
        tally.update({"n": 10.0}, {"n"}, {"n"}, empty, (), now)
    tally.update({}, (), (), (), (), 12.0)
    assert judged(tally) == Drains(late=1)


def test_a_notice_that_is_withdrawn_counts_nothing():
    tally = DrainTally()
    tally.update({"n": 10.0}, {"n"}, {"n"}, set(), (), 5.0)
    tally.update({}, (), {"n"}, set(), (), 6.0)
    assert judged(tally, torn={"n"}) == Drains()


def test_a_loss_out_of_the_blue_is_no_drain_and_one_after_a_notice_is_missed():
    tally = DrainTally()
    tally.update({"sudden": 5.0, "told": 9.0}, {"told"}, {"sudden", "told"}, set(), (), 5.0)
    tally.update({"sudden": 6.0, "told": 6.0}, (), {"sudden", "told"}, set(), (), 6.0)
    tally.update({}, (), (), set(), (), 7.0)
    assert judged(tally, torn={"sudden", "told"}) == Drains(missed=1)


def test_the_latest_deadline_counts():
    tally = DrainTally()
    for deadline, now, empty in ((10.0, 1.0, ()), (20.0, 2.0, ()), (20.0, 15.0, ("n",))):
        tally.update({"n": deadline}, {"n"}, {"n"}, empty, (), now)
    tally.update({}, (), (), (), (), 21.0)
    assert judged(tally) == Drains(clean=1)
