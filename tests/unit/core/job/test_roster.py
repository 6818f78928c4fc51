"""Workers that go between two passes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controllerkit import NOW, cluster, job, pod, running_snapshot
from llmbatch.core.job.decide import decide
from llmbatch.core.job.roster import Roster, call_roll
from llmbatch.core.job.snapshot import Notice, PodObservation, Snapshot

HEAD, W0, W1 = pod("head", "head"), pod("w0"), pod("w1")
BEFORE = call_roll(Roster(), cluster(), (HEAD, W0, W1), ())


def names(pods: tuple[PodObservation, ...]) -> list[str]:
    return [seen.name for seen in pods]


def test_a_worker_that_is_missing_vanished():
    assert names(BEFORE.vanished) == []
    after = call_roll(BEFORE, cluster(), (HEAD, W1), ())
    assert names(after.vanished) == ["w0"]
    # A pass that fails before it writes must not lose it.
    assert names(call_roll(after, cluster(), (HEAD, W1), ()).vanished) == ["w0"]
    assert names(call_roll(after, cluster(), (HEAD, W1), ("w0",)).vanished) == []


def test_a_worker_that_was_seen_to_go_vanished_unless_it_is_counted():
    """In a burst of notices a pass tells the runtime of a pod that terminates, and counts it in a later pass."""
    leaving = W0.model_copy(update={"terminating": True})
    before = call_roll(Roster(), cluster(), (HEAD, leaving, W1), ())
    assert call_roll(before, cluster(), (HEAD, W1), ("w0",)).vanished == ()
    assert names(call_roll(before, cluster(), (HEAD, W1), ()).vanished) == ["w0"]


def test_a_worker_that_was_told_to_go_did_not_vanish():
    groups = tuple(group.model_copy(update={"workers_to_delete": ("w0",)}) for group in cluster().groups)
    told = cluster().model_copy(update={"groups": groups})
    assert call_roll(BEFORE, told, (HEAD, W1), ()).vanished == ()
    leaving = W0.model_copy(update={"terminating": True})
    before = call_roll(BEFORE, told, (HEAD, leaving, W1), ())
    assert call_roll(before, cluster(), (HEAD, W1), ()).vanished == (), "nor once its name is off the list again"


def test_a_worker_without_a_node_and_the_head_are_no_loss():
    waiting = W0.model_copy(update={"node": None})
    before = call_roll(Roster(), cluster(), (HEAD, waiting, W1), ())
    assert call_roll(before, cluster(), (W1,), ()).vanished == ()


def test_a_cluster_that_goes_takes_its_workers_along():
    for gone in (
        None,
        cluster().model_copy(update={"deleting": True}),
        cluster().model_copy(update={"suspended": True}),
        cluster().model_copy(update={"uid": "another"}),
    ):
        assert call_roll(BEFORE, gone, (), ()).vanished == ()


def test_a_worker_that_vanished_is_counted_once_and_not_told_of():
    status, pods = running_snapshot().job.status, running_snapshot().pods
    roster = call_roll(Roster(), cluster(), pods, ())
    totals = []
    for tick in range(3):
        left = pods[:-1]
        counted = status.preemptions.counted if status.preemptions else ()
        roster = call_roll(roster, cluster(), left, counted)
        seen = running_snapshot(now=NOW + tick, job=job(status=status), pods=left, vanished=roster.vanished)
        plan = decide(Snapshot.model_validate(seen.model_dump()))
        status = plan.status
        assert status.preemptions is not None
        totals.append(status.preemptions.total)
        [last] = status.preemptions.recent
        assert (last.worker, last.source) == (pods[-1].name, "pod gone")
    assert totals == [1, 1, 1]


def test_what_was_last_seen_of_a_worker_that_vanished_says_what_it_counts_as():
    """KubeRay deletes a pod that failed at once: that is no preemption, whichever pass counts it."""
    failed = Notice(kind="lost", source="pod failed", loss="failure")
    gone = (W0, W1.model_copy(update={"notice": failed}))
    preemptions = decide(running_snapshot(vanished=gone)).status.preemptions
    assert preemptions is not None
    assert (preemptions.total, preemptions.failures) == (1, 1)
    assert [loss.worker for loss in preemptions.recent] == ["w0"]


@given(st.lists(st.sets(st.sampled_from(["w0", "w1", "w2", "w3"])), max_size=8))
def test_each_worker_vanishes_once_however_they_go(looks: list[set[str]]):
    """A name that went does not come back: Kubernetes gives no name twice in a row."""
    roster, counted, there = Roster(), set[str](), {"w0", "w1", "w2", "w3"}
    roster = call_roll(roster, cluster(), [pod(name) for name in sorted(there)], ())
    found = []
    for look in looks:
        there &= look
        roster = call_roll(roster, cluster(), [pod(name) for name in sorted(there)], counted)
        found += names(roster.vanished)
        counted = set(names(roster.vanished))
    assert sorted(found) == sorted({"w0", "w1", "w2", "w3"} - there)
