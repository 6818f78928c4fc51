"""How departures of workers are judged."""

from llmbatch.api.progress import Drains
from llmbatch.runtime.pools.drains import DrainTally


def test_a_worker_is_clean_late_or_missed_by_when_it_was_empty():
    tally = DrainTally()
    doomed = {"clean": 10.0, "late": 10.0, "missed": 10.0}
    tally.update(doomed, doomed, doomed, set(), 5.0)
    tally.update(doomed, doomed, doomed, {"clean"}, 8.0)
    tally.update(doomed, doomed, doomed, {"clean", "late"}, 11.0)
    assert tally.counts() == Drains()
    tally.update({}, (), (), {"clean", "late"}, 12.0)
    assert tally.counts() == Drains(clean=1, late=1, missed=1)


def test_a_notice_that_is_withdrawn_counts_nothing():
    tally = DrainTally()
    tally.update({"n": 10.0}, {"n"}, {"n"}, set(), 5.0)
    tally.update({}, (), {"n"}, set(), 6.0)
    tally.update({}, (), (), set(), 20.0)
    assert tally.counts() == Drains()


def test_a_loss_out_of_the_blue_is_no_drain_and_one_after_a_notice_is_missed():
    tally = DrainTally()
    tally.update({"sudden": 5.0, "told": 9.0}, {"told"}, {"sudden", "told"}, set(), 5.0)
    tally.update({"sudden": 6.0, "told": 6.0}, (), {"sudden", "told"}, set(), 6.0)
    tally.update({}, (), (), set(), 7.0)
    assert tally.counts() == Drains(missed=1)


def test_the_latest_deadline_counts():
    tally = DrainTally()
    for deadline, now, empty in ((10.0, 1.0, ()), (20.0, 2.0, ()), (20.0, 15.0, ("n",))):
        tally.update({"n": deadline}, {"n"}, {"n"}, empty, now)
    tally.update({}, (), (), (), 21.0)
    assert tally.counts() == Drains(clean=1)
