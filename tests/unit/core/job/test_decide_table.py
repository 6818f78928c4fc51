"""`decide()` is total: every phase with every observation, and random mixtures of both."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllerkit import (
    NOW,
    PODS,
    SETTINGS,
    children,
    cluster,
    condition,
    job,
    pod,
    progress,
    ray_job,
    running_status,
    spec,
    status,
)
from llmbatch.api.job import LLMBatchJobSpec, LLMBatchJobStatus, RowProgress
from llmbatch.core.job.decide import decide
from llmbatch.core.job.phase import PAUSING
from llmbatch.core.job.snapshot import (
    ClusterFacts,
    JobObservation,
    NodeObservation,
    Notice,
    RayApiObservation,
    RuntimeObservation,
    Snapshot,
)
from llmbatch.core.job.times import rfc3339
from plancheck import check, check_wire

INTENDED = {"attempt": 1, "ray_cluster_name": "summarise"}
STORED: dict[str, LLMBatchJobStatus] = {
    "new": LLMBatchJobStatus(),
    "refused": LLMBatchJobStatus(conditions=(condition("Accepted", False),)),
    "intended": status(**INTENDED),
    "intended again": status(attempt=2, ray_cluster_name="summarise", interruptions=1),
    "backing off": status(attempt=2, ray_cluster_name="summarise", failures=1, retry_at=rfc3339(NOW + 20)),
    "running": running_status(progress=RowProgress(rows_total=100, rows_completed=60, rows_failed=2, prompt_tokens=7)),
    "running for the last time": running_status(attempt=4, failures=3, interruptions=2),
    "stalled": status(condition("Stalled"), **INTENDED),
    "pausing": running_status().model_copy(
        update={
            "pausing_since": rfc3339(NOW - 5),
            "conditions": (*running_status().conditions, condition("Suspended", False, PAUSING)),
        }
    ),
    "suspended": status(condition("Suspended"), attempt_started_at=rfc3339(NOW - 500), **INTENDED),
    "complete": status(condition("Complete"), finished_at=rfc3339(NOW - 30), phase="Complete", **INTENDED),
    "failed": status(condition("Failed"), finished_at=rfc3339(NOW - 30), phase="Failed", **INTENDED),
}
SPECS: dict[str, LLMBatchJobSpec | None] = {
    "plain": spec(),
    "suspended": spec(suspend=True, ttlSecondsAfterFinished=600),
    "too late": spec(activeDeadlineSeconds=60),
    "invalid": None,
}
READY = {"cluster": cluster(), "pods": PODS}
OBSERVED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "cluster without pods": {"cluster": cluster(head_ready=False)},
    "cluster leaving": {**READY, "cluster": cluster(deleting=True)},
    "cluster queued": {"cluster": cluster(suspended=True, head_ready=False)},
    "somebody else's cluster": {**READY, "cluster": cluster(owned=False)},
    "head alone": {"cluster": cluster(), "pods": PODS[:1], "ray": RayApiObservation(reachable=True)},
    "head unschedulable": {
        "cluster": cluster(head_ready=False),
        "pods": (
            pod("head", "head", phase="Pending", ready=False, node=None, unschedulable="0/3 nodes are available"),
        ),
    },
    "head replaced": {
        **READY,
        "pods": (pod("head-2", "head", created_at=NOW - 10), *PODS[1:]),
        "ray": RayApiObservation(reachable=True),
    },
    "ray silent": {**READY, "ray": RayApiObservation(unreachable_since=NOW - 30)},
    "ray dead": {**READY, "ray": RayApiObservation(unreachable_since=NOW - 900)},
    **{
        f"driver {state} {code}": {
            **READY,
            "ray": RayApiObservation(reachable=True, jobs=(ray_job(state, exit_code=code),)),
        }
        for state, code in [
            ("PENDING", None),
            ("RUNNING", None),
            ("SUCCEEDED", 0),
            ("FAILED", 2),
            ("FAILED", None),
            ("STOPPED", None),
        ]
    },
    "earlier driver lives": {
        **READY,
        "ray": RayApiObservation(reachable=True, jobs=(ray_job(attempt=3), ray_job("FAILED", attempt=1))),
    },
}
PROGRESS = {
    "none": RuntimeObservation(unreachable_since=NOW - 90),
    "running": RuntimeObservation(progress=progress(useful_gpus=2)),
    "stalled": RuntimeObservation(progress=progress(stall_reason="no GPU of type H100")),
    "paused": RuntimeObservation(progress=progress("paused")),
    "complete": RuntimeObservation(progress=progress("complete")),
    "bad input": RuntimeObservation(progress=progress("failed", error="InputError: no such file")),
    "bug": RuntimeObservation(progress=progress("failed", error="InternalError: broken")),
    "of another attempt": RuntimeObservation(progress=progress("complete", attempt=9)),
}


def snapshot(stored: str, the_spec: str, observed: str, said: str, **more: Any) -> Snapshot:
    seen = job(status=STORED[stored], spec=SPECS[the_spec], spec_error="spec.stages: []: too short")
    known = {"now": NOW, "job": seen, "runtime": PROGRESS[said], "settings": SETTINGS, **OBSERVED[observed], **more}
    return Snapshot(**{"children": children(seen) if "cluster" in known else (), **known})


@pytest.mark.parametrize("stored", STORED)
def test_every_phase_with_every_observation(stored: str):
    seen = 0
    for the_spec, observed, said in itertools.product(SPECS, OBSERVED, PROGRESS):
        case = snapshot(stored, the_spec, observed, said)
        check(case, decide(case))
        seen += 1
    assert seen == len(SPECS) * len(OBSERVED) * len(PROGRESS)


NOTICES = st.none() | st.builds(
    Notice,
    kind=st.sampled_from(["advisory", "draining", "reclaim", "lost"]),
    source=st.just("taint"),
    deadline=st.none() | st.floats(NOW - 100, NOW + 100),
)
WORKERS = st.lists(
    st.builds(
        pod,
        st.sampled_from([f"w{index}" for index in range(12)]),
        st.sampled_from(["spot", "on-demand"]),
        ready=st.booleans(),
        terminating=st.booleans(),
        notice=NOTICES,
        created_at=st.floats(NOW - 5000, NOW),
        waiting_reason=st.sampled_from(["", "ImagePullBackOff", "ContainerCreating"]),
        unschedulable=st.sampled_from(["", "0/9 nodes are available: 9 Insufficient nvidia.com/gpu."]),
        node=st.sampled_from([None, "a", "b"]),
    ),
    max_size=10,
    unique_by=lambda worker: worker.name,
)
FACTS = st.builds(
    ClusterFacts,
    kuberay_installed=st.booleans(),
    forbidden=st.sampled_from([(), ("no right to create rayclusters",)]),
    rejected=st.sampled_from([(), ("RayCluster is invalid",)]),
    unserved=st.sampled_from([(), ("failed calling webhook",)]),
    unserved_since=st.none() | st.floats(NOW - 100, NOW),
    missing_secrets=st.sampled_from([(), ("reader",)]),
)
NODES = st.lists(st.builds(NodeObservation, name=st.sampled_from(["a", "b"]), notice=NOTICES), max_size=2)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(list(STORED)),
    st.sampled_from(list(SPECS)),
    st.sampled_from(list(OBSERVED)),
    st.sampled_from(list(PROGRESS)),
    WORKERS,
    FACTS,
    NODES,
    st.booleans(),
)
def test_any_mixture(
    stored: str,
    the_spec: str,
    observed: str,
    said: str,
    workers: list[Any],
    facts: ClusterFacts,
    nodes: list[NodeObservation],
    deleting: bool,
):
    case = snapshot(stored, the_spec, observed, said, facts=facts, nodes=tuple(nodes))
    heads = tuple(seen for seen in case.pods if seen.group == "head")
    seen: JobObservation = case.job.model_copy(update={"deleting": deleting})
    case = case.model_copy(update={"pods": (*heads, *workers), "job": seen})
    plan = decide(case)
    check(case, plan)
    check_wire(case, plan)
    assert decide(case) == plan


@pytest.mark.parametrize("stored", STORED)
def test_the_status_comes_to_rest(stored: str):
    """While nothing outside changes, a handful of passes write and then none does, nor tells an event."""
    for observed, said in itertools.product(OBSERVED, ["none", "running"]):
        assert _passes_that_write(snapshot(stored, "plain", observed, said)) <= 6, (observed, said)


def _passes_that_write(case: Snapshot) -> int:
    for passes in range(10):
        plan = decide(case)
        if plan.status == case.job.status:
            assert not plan.events
            return passes
        case = case.model_copy(update={"job": case.job.model_copy(update={"status": plan.status})})
    return 10
