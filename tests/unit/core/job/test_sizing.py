"""What KubeRay is told, so that the right workers stay and only named ones go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllerkit import NOW, cluster, pod, progress, running_snapshot, spec
from llmbatch.core.job.decide import decide
from llmbatch.core.job.facts import Worker
from llmbatch.core.job.plan import PatchWorkerGroup, SendCapacity
from llmbatch.core.job.sizing import LINGERING_SECONDS, group_size
from llmbatch.core.job.snapshot import Notice, PodObservation, RuntimeObservation

NOTICE = Notice(kind="reclaim", source="spot-itn", deadline=NOW + 120)
ASKED_TO_LEAVE = Notice(kind="draining", source="node cordoned", spot_only=True)


def worker(name: str, counted_at: float | None = None, **fields: object) -> Worker:
    seen = pod(name, **fields)
    return Worker(pod=seen, notice=seen.notice, counted_at=counted_at)


def test_a_worker_on_notice_is_made_up_for_while_it_still_runs():
    found = [worker("a", notice=NOTICE), worker("b")]
    assert group_size(found, 2, NOW)[:2] == (3, ())


def test_an_advisory_changes_nothing():
    assert group_size([worker("a", notice=Notice(kind="advisory", source="rebalance"))], 1, NOW)[:2] == (1, ())


def test_a_terminating_worker_is_named_so_that_its_place_is_free_at_once():
    assert group_size([worker("a", terminating=True), worker("b")], 2, NOW)[:2] == (2, ("a",))


@pytest.mark.parametrize(
    "notice",
    [
        Notice(kind="lost", source="node deleted"),
        Notice(kind="reclaim", source="pod deleted", deadline=NOW + 1),
        Notice(kind="reclaim", source="pod deleted", deadline=NOW - 1),
    ],
)
def test_one_that_may_be_gone_before_kuberay_reads_its_name_counts_until_it_is(notice: Notice):
    """KubeRay makes another one as it goes. Were the group smaller by then, it would take any."""
    assert group_size([worker("a", terminating=True, notice=notice), worker("b")], 1, NOW, asked=2)[:2] == (2, ())
    assert group_size([worker("b"), worker("new", ready=False)], 1, NOW, asked=2)[:2] == (1, ("new",))


def test_those_that_do_not_run_yet_go_first_then_the_youngest():
    found = [
        worker("old"),
        worker("young", created_at=NOW - 60),
        worker("pending", ready=False, created_at=NOW - 900),
    ]
    assert group_size(found, 2, NOW).delete == ("pending",)
    assert group_size(found, 1, NOW).delete == ("pending", "young")


def test_a_worker_once_told_to_go_goes():
    found = [worker("a", ready=False), worker("b")]
    assert group_size(found, 2, NOW, frozenset({"a"}))[:2] == (2, ("a",))


def lingering(name: str, **fields: object) -> Worker:
    known = {"notice": ASKED_TO_LEAVE, "counted_at": NOW - LINGERING_SECONDS, **fields}
    return worker(name, **known)  # type: ignore[arg-type]


def test_a_worker_that_was_asked_to_leave_and_is_left_alone_goes_once_its_place_is_filled():
    """As on a node that is cordoned and left so: its GPU would be paid for to the end of the job."""
    assert group_size([lingering("a"), worker("b", ready=False)], 1, NOW, asked=2)[:2] == (2, ())
    assert group_size([lingering("a"), worker("b")], 1, NOW, asked=2)[:2] == (1, ("a",))


@pytest.mark.parametrize(
    "fields",
    [
        {"counted_at": NOW - LINGERING_SECONDS + 1},
        {"counted_at": None},
        {"notice": NOTICE},
        {"notice": Notice(kind="draining", source="scheduled-maintenance", deadline=NOW + 3600)},
    ],
)
def test_a_worker_that_may_yet_be_taken_is_left_to_whoever_takes_it(fields: dict[str, object]):
    assert group_size([lingering("a", **fields), worker("b")], 1, NOW, asked=2)[:2] == (2, ())


WORKERS = st.lists(
    st.builds(
        worker,
        st.sampled_from([f"w{index}" for index in range(12)]),
        st.sampled_from([None, NOW - 60, NOW - LINGERING_SECONDS]),
        ready=st.booleans(),
        terminating=st.booleans(),
        notice=st.sampled_from([None, NOTICE, ASKED_TO_LEAVE]),
        created_at=st.floats(NOW - 5000, NOW),
    ),
    unique_by=lambda worker: worker.pod.name,
    max_size=12,
)


def test_a_group_does_not_shrink_by_pods_that_are_not_seen_yet():
    """KubeRay would take any in their place."""
    seen = [worker(f"w{index}") for index in range(4)]
    assert group_size(seen, 4, NOW, asked=6)[:2] == (6, ())
    new = [worker(f"new{index}", ready=False, node=None) for index in range(2)]
    assert group_size([*seen, *new], 4, NOW, asked=6)[:2] == (4, ("new0", "new1"))


@given(
    WORKERS, st.integers(0, 12), st.frozensets(st.sampled_from([f"w{index}" for index in range(12)])), st.integers(0, 4)
)
def test_kuberay_never_chooses_and_the_group_comes_to_its_target(
    found: list[Worker], target: int, told: frozenset[str], unseen: int
):
    asked = unseen + sum(worker.pod.name not in told for worker in found)
    size = group_size(found, target, NOW, told, asked)
    counted = [worker for worker in found if worker.pod.name not in size.delete]
    # As KubeRay counts: it would take any pod if there were more than replicas.
    assert len(counted) + unseen <= size.replicas
    noticed = [worker for worker in counted if worker.doomed]
    assert target <= size.replicas - len(noticed) <= target + unseen
    # Nobody goes who could have stayed.
    kept = [worker for worker in counted if not worker.doomed]
    could_stay = [w for w in found if not w.doomed and w.pod.name not in told]
    assert len(kept) == min(target, len(could_stay))


def test_the_tail_of_a_job_releases_workers_by_name_and_the_runtime_hears_of_it():
    plan = decide(running_snapshot(runtime=RuntimeObservation(progress=progress(useful_gpus=1))))
    [patch] = [action for action in plan.actions if isinstance(action, PatchWorkerGroup)]
    [capacity] = [action.capacity for action in plan.actions if isinstance(action, SendCapacity)]
    assert (patch.group, patch.from_replicas, patch.replicas) == ("spot", 4, 1)
    assert len(patch.workers_to_delete) == 3
    assert {doomed.worker for doomed in capacity.doomed} == set(patch.workers_to_delete)
    assert patch.json_patch()[:3] == [
        {"op": "test", "path": "/metadata/uid", "value": "cluster-1"},
        {"op": "test", "path": "/spec/workerGroupSpecs/0/groupName", "value": "spot"},
        {"op": "test", "path": "/spec/workerGroupSpecs/0/replicas", "value": 4},
    ]


def test_what_the_operator_releases_is_no_preemption():
    healthy = running_snapshot()
    assert healthy.cluster is not None
    groups = (healthy.cluster.groups[0].model_copy(update={"workers_to_delete": ("w0",)}), healthy.cluster.groups[1])
    going: tuple[PodObservation, ...] = tuple(
        seen.model_copy(update={"terminating": seen.name in ("w0", "w1")}) for seen in healthy.pods
    )
    plan = decide(healthy.model_copy(update={"cluster": cluster(groups=groups), "pods": going}))
    assert plan.status.preemptions is not None
    assert [entry.worker for entry in plan.status.preemptions.recent] == ["w1"]


def test_a_job_without_spot_runs_on_demand():
    only = spec(capacity={"onDemand": {"max": 3}})
    healthy = running_snapshot()
    plan = decide(healthy.model_copy(update={"job": healthy.job.model_copy(update={"spec": only})}))
    sizes = {action.group: action.replicas for action in plan.actions if isinstance(action, PatchWorkerGroup)}
    assert sizes == {"spot": 0, "on-demand": 3}


def test_a_worker_stays_while_rows_are_finished_and_not_committed():
    plan = decide(running_snapshot(runtime=RuntimeObservation(progress=progress(useful_gpus=0))))
    [patch] = [action for action in plan.actions if isinstance(action, PatchWorkerGroup)]
    assert (patch.replicas, len(patch.workers_to_delete)) == (1, 3)
