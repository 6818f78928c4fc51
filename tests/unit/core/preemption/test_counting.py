"""How notices reach the Plan: who is told, and what is counted, pass by pass."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controllerkit import NOW, job, pod, running_snapshot
from jobworld import World
from llmbatch.api.capacity import DoomedWorker
from llmbatch.api.job import MAX_COUNTED
from llmbatch.core.job.decide import decide
from llmbatch.core.job.facts import Worker, workers
from llmbatch.core.job.numbers import RECENT, counted_preemptions
from llmbatch.core.job.plan import Plan, SendCapacity
from llmbatch.core.job.snapshot import NodeObservation, Notice, Snapshot
from llmbatch.core.preemption.classify import Classifier

SPOT_ITN = {
    "metadata": {"name": "node-of-w0"},
    "spec": {
        "taints": [{"key": "aws-node-termination-handler/spot-itn", "value": "spot-itn-1", "effect": "NoSchedule"}]
    },
}
CORDON: dict[str, Any] = {"metadata": {"name": "node-of-w0"}, "spec": {"unschedulable": True}}
FAILED = Notice(kind="lost", source="pod failed", loss="failure")


def with_node(body: dict[str, Any], **fields: Any) -> Snapshot:
    node = NodeObservation(name=body["metadata"]["name"], notice=Classifier().node(body))
    return running_snapshot(nodes=(node,), **fields)


def doomed(plan: Plan) -> tuple[DoomedWorker, ...]:
    [sent] = [action.capacity.doomed for action in plan.actions if isinstance(action, SendCapacity)]
    return sent


def test_a_notice_without_a_time_keeps_the_deadline_of_its_first_sight():
    first = with_node(SPOT_ITN)
    plan = decide(first)
    [told] = doomed(plan)
    assert (told.worker, told.kind, told.deadline) == ("w0", "reclaim", NOW + 120)
    # Another operator process, half a minute later, knows the status and the node, nothing else.
    later = first.model_copy(update={"now": NOW + 30, "job": first.job.model_copy(update={"status": plan.status})})
    assert doomed(decide(later))[0].deadline == NOW + 120


def test_the_pods_deletion_brings_the_deadline_forward():
    body = {"metadata": {"name": "w0", "deletionTimestamp": "2027-01-15T08:00:25Z", "deletionGracePeriodSeconds": 25}}
    notice = Classifier().pod(body)
    pods = tuple(
        seen.model_copy(update={"terminating": True, "notice": notice}) if seen.name == "w0" else seen
        for seen in running_snapshot().pods
    )
    [told] = doomed(decide(with_node(SPOT_ITN, pods=pods)))
    assert told.deadline == NOW + 25


def test_a_withdrawn_notice_frees_the_worker_and_is_not_counted_again():
    plan = decide(with_node(SPOT_ITN))
    assert plan.status.preemptions is not None
    assert plan.status.preemptions.total == 1
    free = running_snapshot(now=NOW + 20, job=job(status=plan.status))
    after = decide(free)
    assert doomed(after) == ()
    again = decide(with_node(SPOT_ITN, now=NOW + 40, job=job(status=after.status)))
    assert again.status.preemptions is not None
    assert again.status.preemptions.total == 1


def test_a_cordon_is_a_notice_on_spot_and_an_advisory_elsewhere():
    assert [told.kind for told in doomed(decide(with_node(CORDON)))] == ["draining"]
    pods = (pod("head", "head"), pod("w0", "on-demand"))
    [seen] = workers(with_node(CORDON, pods=pods))
    assert not seen.doomed
    assert decide(with_node(CORDON, pods=pods)).status.preemptions is None


def test_an_advisory_changes_nothing_but_what_is_known():
    advisory = {
        "metadata": {"name": "node-of-w0"},
        "spec": {"taints": [{"key": "DeletionCandidateOfClusterAutoscaler", "value": "1788256201"}]},
    }
    quiet, told = decide(running_snapshot()), decide(with_node(advisory))
    assert told == quiet


def test_a_worker_that_fails_by_itself_counts_against_the_other_budget():
    stored, new = counted_preemptions(None, [Worker(pod=pod("w0"), notice=FAILED)], frozenset(), NOW)
    assert stored is not None
    assert (stored.total, stored.failures, new) == (0, 1, ())
    # Its node's notice comes late: the worker is lost once.
    late = Worker(pod=pod("w0"), notice=Notice(kind="lost", source="node deleted"))
    again, new = counted_preemptions(stored, [late], frozenset(), NOW + 5)
    assert again == stored
    assert new == ()


def test_the_head_on_notice_is_no_preempted_worker():
    pods = (pod("head", "head", notice=Notice(kind="reclaim", source="x")), pod("w1"))
    assert [worker.pod.name for worker in workers(running_snapshot(pods=pods))] == ["w1"]


def test_more_workers_than_can_be_remembered_are_counted_once_each_as_they_go():
    fleet = [Worker(pod=pod(f"w{index:04}"), notice=FAILED) for index in range(MAX_COUNTED + 5)]
    stored, _ = counted_preemptions(None, fleet, frozenset(), NOW)
    stored, _ = counted_preemptions(stored, fleet, frozenset(), NOW + 1)
    assert stored is not None
    assert stored.failures == MAX_COUNTED
    stored, _ = counted_preemptions(stored, fleet[5:], frozenset(), NOW + 2)
    assert stored is not None
    assert stored.failures == MAX_COUNTED + 5


MOMENTS = st.lists(
    st.dictionaries(
        st.sampled_from([f"w{index}" for index in range(6)]),
        st.sampled_from(
            [
                None,
                FAILED,
                Notice(kind="reclaim", source="spot-itn"),
                Notice(kind="lost", source="node deleted"),
                Notice(kind="advisory", source="rebalance"),
            ]
        ),
    ),
    max_size=12,
)


@settings(max_examples=50)
@given(MOMENTS)
def test_each_worker_counts_once_whatever_is_seen_of_it(moments: list[dict[str, Notice | None]]):
    """A name that comes back after it was gone is a new pod: Kubernetes gives no name twice in a row."""
    stored, before, lost = None, set[str](), 0
    for tick, moment in enumerate(moments):
        found = [Worker(pod=pod(name), notice=notice) for name, notice in moment.items()]
        before &= moment.keys()
        going = {worker.pod.name for worker in found if worker.doomed}
        lost += len(going - before)
        before |= going
        counters, _ = counted_preemptions(stored, found, frozenset(), NOW + tick)
        if counters is None:
            assert lost == 0
            continue
        assert counters.total + counters.failures == lost
        assert counters.counted.keys() == before
        assert len(counters.recent) == min(counters.total, RECENT)
        stored = counters


def test_preemptions_never_end_a_job_and_failures_of_the_driver_do():
    world = World(rows=2000).run(until="Running")
    for _ in range(12):
        world.notice_spot(2)
        world.run(passes=8)
    assert world.status.preemptions is not None
    assert world.status.preemptions.total >= 20
    assert (world.status.failures, world.status.phase) in [(0, "Running"), (0, "Complete")]
