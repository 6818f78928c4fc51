"""What is said of a job that does not move: soon, in the user's terms, and in the same words each pass."""

from typing import Any

import pytest

from controllerkit import (
    NOW,
    PODS,
    cluster,
    condition,
    job,
    pod,
    progress,
    ray_job,
    running_snapshot,
    running_status,
    status,
)
from llmbatch.api.job import CapacityStatus
from llmbatch.core.job.decide import decide
from llmbatch.core.job.phase import HEAD_NOT_READY
from llmbatch.core.job.plan import SendCapacity
from llmbatch.core.job.running import RUNNING_SECONDS
from llmbatch.core.job.snapshot import (
    ChildObservation,
    ClusterFacts,
    PodObservation,
    RayApiObservation,
    RuntimeObservation,
    Snapshot,
)
from llmbatch.core.job.stall import UNSCHEDULABLE_SECONDS, UNSERVED_SECONDS, Stall, scheduling_message, stall
from llmbatch.core.job.times import rfc3339

PENDING: dict[str, Any] = {"phase": "Pending", "ready": False, "node": None}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            (
                "0/5 nodes are available: 3 Insufficient nvidia.com/gpu, 2 node(s) had untolerated taint {a: b}. "
                "preemption: 0/5 nodes are available: 5 Preemption is not helpful for scheduling."
            ),
            "Insufficient nvidia.com/gpu, node(s) had untolerated taint {a: b}",
        ),
        (
            (
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. no new claims to "
                "deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ),
            "node(s) didn't match Pod's node affinity/selector",
        ),
        ("no nodes available to schedule pods", "no nodes available to schedule pods"),
        ("0/2 nodes are available: ", "0/2 nodes are available: "),
    ],
)
def test_the_schedulers_counts_are_left_out(said: str, shown: str):
    assert scheduling_message(said) == shown


def heads(**fields: Any) -> dict[str, Any]:
    return {"cluster": cluster(head_ready=False), "pods": (pod("head", "head", **fields),)}


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no KubeRay": ({"facts": ClusterFacts(kuberay_installed=False)}, "KubeRayMissing", "install KubeRay"),
    "no right": ({"facts": ClusterFacts(forbidden=("cannot create rayclusters",))}, "Forbidden", "cannot create"),
    "refused": ({"facts": ClusterFacts(rejected=("spec.x: Invalid",))}, "Rejected", "spec.x"),
    "a webhook that is away": (
        {"facts": ClusterFacts(unserved=("failed calling webhook",), unserved_since=NOW - UNSERVED_SECONDS)},
        "ApiServerError",
        "failed calling webhook",
    ),
    "no Secret": (
        {"facts": ClusterFacts(missing_secrets=("b", "a")), "pods": PODS[:1]},
        "SecretMissing",
        "Secret a, b",
    ),
    "another's object": (
        {"children": (ChildObservation(kind="Secret", name="summarise-token", owned=False),)},
        "NameTaken",
        "Secret summarise-token",
    ),
    "another's cluster": ({"cluster": cluster(owned=False)}, "NameTaken", "RayCluster summarise"),
    "KubeRay's failure": (
        {"cluster": cluster(failure='pods "w-4x8d2" is forbidden: exceeded quota'), "pods": PODS[:1]},
        "RayClusterFailed",
        "a pod is forbidden: exceeded quota",
    ),
    "head without a node": (heads(**PENDING, unschedulable="0/1 nodes are available: 1 x"), "Unschedulable", "head"),
    "head without an image": (
        heads(ready=False, waiting_reason="ErrImagePull", waiting_message="not found"),
        "ImageUnavailable",
        "not found",
    ),
    "head without its Secret": (
        heads(ready=False, waiting_reason="CreateContainerConfigError", waiting_message="secret x"),
        "CreateContainerConfigError",
        "secret x",
    ),
    "head that is not back": (
        {
            "job": job(
                status=status(
                    condition("ClusterReady", holds=False, reason=HEAD_NOT_READY),
                    condition("Running", reason="DriverRunning"),
                    attempt=1,
                    attempt_started_at=rfc3339(NOW - 300),
                    ray_cluster_name="summarise",
                )
            ),
            "pods": (pod("head", "head", ready=False), *PODS[1:]),
            "ray": RayApiObservation(),
            "runtime": RuntimeObservation(),
        },
        "HeadNotReady",
        "its node may be gone",
    ),
    "head without a volume": (
        heads(ready=False, phase="Pending", waiting_reason="ContainerCreating", unprepared_since=NOW - 120),
        "HeadNotReady",
        "lacks a volume or its network there: see the events of `kubectl -n team describe pod head`",
    ),
    "head that never becomes ready": (
        heads(ready=False, unready_since=NOW - 1800),
        "HeadNotReady",
        "not ready for half an hour: see the events of `kubectl -n team describe pod head`",
    ),
    "no worker with a node": (
        {"pods": (PODS[0], pod("w0", **PENDING, unschedulable="0/2 nodes are available: 2 Insufficient cpu."))},
        "Unschedulable",
        "No node takes a spot pod: Insufficient cpu",
    ),
    "silent head": ({"ray": RayApiObservation(unreachable_since=NOW - 90)}, "HeadSilent", "Jobs API"),
    "silent driver": (
        {
            "ray": RayApiObservation(reachable=True, jobs=(ray_job(),)),
            "runtime": RuntimeObservation(unreachable_since=NOW - 90),
        },
        "DriverSilent",
        "control endpoint",
    ),
    "no progress": ({"runtime": RuntimeObservation(progress=progress(stall_reason="no H100"))}, "NoProgress", "H100"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_stall_has_its_reason_in_the_status(case: str):
    fields, reason, part = CASES[case]
    status = decide(running_snapshot(**fields)).status
    [stalled] = [condition for condition in status.conditions if condition.type == "Stalled"]
    assert (stalled.status, stalled.reason) == ("True", reason)
    assert part in stalled.message
    assert status.phase == "Stalled"


LACKS: dict[str, tuple[dict[str, Any], str]] = {
    "no Secret": ({"facts": ClusterFacts(missing_secrets=("a",))}, ""),
    "KubeRay's failure": ({"cluster": cluster(failure="exceeded quota")}, "RayClusterFailed"),
}


@pytest.mark.parametrize("case", LACKS)
def test_a_job_with_some_of_its_workers_goes_on_and_is_degraded_at_most(case: str):
    fields, reason = LACKS[case]
    plan = decide(running_snapshot(**{"pods": PODS[:3], **fields}))
    conditions = {condition.type: condition for condition in plan.status.conditions}
    assert "Stalled" not in conditions
    assert any(isinstance(action, SendCapacity) for action in plan.actions)
    assert ("Degraded" in conditions) == bool(reason)
    if reason:
        assert (conditions["Degraded"].status, conditions["Degraded"].reason) == ("True", reason)


def test_a_cluster_whose_definition_went_is_left_alone():
    gone = running_snapshot(facts=ClusterFacts(kuberay_installed=False), pods=PODS[:3])
    assert decide(gone).actions == ()


def test_what_is_only_a_matter_of_time_is_no_stall():
    young = pod("w0", **PENDING, unschedulable="0/1 nodes are available", created_at=NOW - 2)
    starting = pod("w1", ready=False, waiting_reason="ContainerCreating")
    assert stall(running_snapshot(pods=(PODS[0], young, starting))) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"phase": "Pending", "unprepared_since": NOW - 119, "unready_since": NOW - 119},
        {"phase": "Pending", "unready_since": NOW - 1799},
        {"unready_since": NOW - 7200, "terminating": True},
        {"phase": "Failed", "unprepared_since": NOW - 600, "unready_since": NOW - 600},
    ],
    ids=["attaching a disk", "pulling a large image", "leaving", "ended"],
)
def test_a_head_that_takes_its_time_is_no_stall(fields: dict[str, Any]):
    assert stall(running_snapshot(**heads(ready=False, **fields), ray=RayApiObservation())) is None


def test_what_goes_with_an_earlier_job_of_the_name_is_no_stall():
    going = ChildObservation(kind="Secret", name="summarise-token", owned=False, deleting=True)
    assert stall(running_snapshot(children=(going,))) is None


def starting(*pods: PodObservation) -> Snapshot:
    waiting = condition("ClusterReady", holds=False, reason=HEAD_NOT_READY)
    wanted = CapacityStatus(workers_wanted=4)
    stored = status(waiting, attempt=1, ray_cluster_name="summarise", capacity=wanted, updated_at=rfc3339(NOW))
    return running_snapshot(
        job=job(status=stored), cluster=cluster(head_ready=False), pods=pods, ray=RayApiObservation()
    )


def test_a_job_is_looked_at_again_when_time_makes_a_stall():
    head = pod("head", "head", **PENDING, unschedulable="0/1 nodes are available", created_at=NOW - 2)
    assert decide(starting(head)).requeue_after == UNSCHEDULABLE_SECONDS - 2


def test_a_job_that_waits_for_its_head_is_left_alone():
    assert decide(starting()).requeue_after == RUNNING_SECONDS


def test_a_job_with_a_worker_is_degraded_and_not_stalled():
    missing = pod("w9", **PENDING, unschedulable="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    snapshot = running_snapshot(pods=(*PODS[:2], missing))
    assert stall(snapshot) is None
    conditions = {condition.type: condition for condition in decide(snapshot).status.conditions}
    assert (conditions["Degraded"].status, conditions["Degraded"].reason) == ("True", "Unschedulable")


def test_the_kubelets_changing_words_are_written_once():
    def pulling(reason: str, message: str) -> Snapshot:
        head = pod("head", "head", ready=False, waiting_reason=reason, waiting_message=message)
        return running_snapshot(cluster=cluster(head_ready=False), pods=(head,), job=job(status=status))

    status = running_status(attempt_started_at=None)
    status = decide(pulling("ErrImagePull", "401 Unauthorized")).status
    again = decide(pulling("ImagePullBackOff", 'Back-off pulling image "x"'))
    assert again.status == status
    assert "401" in next(condition.message for condition in status.conditions if condition.type == "Stalled")


def test_the_first_check_speaks():
    facts = ClusterFacts(kuberay_installed=False, missing_secrets=("a",))
    found = stall(running_snapshot(facts=facts))
    assert isinstance(found, Stall)
    assert found.reason == "KubeRayMissing"


def test_a_worker_on_its_way_is_no_stall():
    told = RuntimeObservation(progress=progress(stall_reason="stage say needs a GPU"))
    starting = (pod("head", "head"), pod("w0", ready=False))
    assert stall(running_snapshot(runtime=told, pods=starting)) is None
    assert stall(running_snapshot(runtime=told)).reason == "NoProgress"
