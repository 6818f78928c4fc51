"""Changes of a running job's spec (after Acto, SOSP 2023): the job ends up where one created that way is.

Input, stages, output, shardRows and retryFailed cannot change: the API server refuses that (tests/crdcases.py).
"""

from __future__ import annotations

from typing import Any

import pytest

from controllerkit import SPOT, spec
from jobworld import World
from llmbatch.core.job.snapshot import ClusterFacts

SELECTOR = {"example.com/capacity": "spot"}
PRICES = {"spot": 1.0, "onDemand": 2.0}
MUTATIONS: dict[str, dict[str, Any]] = {
    "more spot": {"capacity": {"spot": {"max": 7, "nodeSelector": SELECTOR, "tolerations": [SPOT]}}},
    "less spot": {"capacity": {"spot": {"max": 1, "nodeSelector": SELECTOR, "tolerations": [SPOT]}}},
    "a base": {"capacity": {"spot": {"max": 4}, "onDemand": {"base": 2, "max": 2}}},
    "on demand alone": {"capacity": {"spot": {"max": 0}, "onDemand": {"max": 3}}},
    "another fallback": {"capacity": {"spot": {"max": 4}, "fallback": {"afterSeconds": 1}}},
    "a budget": {"budget": {"maxCost": 1e6, "prices": PRICES}},
    "a far deadline": {"activeDeadlineSeconds": 1_000_000},
    "another error rate": {"failurePolicy": {"maxErrorRate": 0.5, "backoffLimit": 0}},
    "another policy": {"allocation": {"policy": "stock"}},
    "a time to live": {"ttlSecondsAfterFinished": 30},
    "an image": {"image": "registry.example/other:2"},
    "an overlay": {"podOverlay": {"spec": {"priorityClassName": "low"}}},
}
REFUSED = {"podOverlay": {"spec": {"nodeName": "here"}}}
"""What no job is accepted with."""


def settled(world: World) -> dict[str, Any]:
    """Return what is asked for once nothing moves any more, rows apart."""
    world.run(passes=60)
    assert world.cluster is not None
    capacity = world.status.capacity
    assert capacity is not None
    return {
        "groups": {group.name: group.replicas for group in world.cluster.groups},
        "pods": sorted(pod.group for pod in world.pods if pod.gone_at is None),
        "wanted": capacity.workers_wanted,
        "ready": capacity.workers_ready,
        "phase": world.status.phase,
        "attempt": world.status.attempt,
        "failures": world.status.failures,
    }


def running() -> World:
    return World(rows=1_000_000).run(until="Running").run(passes=10)


@pytest.mark.parametrize("change", MUTATIONS.values(), ids=MUTATIONS)
def test_a_change_leads_where_a_job_created_that_way_is(change: dict[str, Any]):
    changed = running()
    changed.change(**change)
    assert settled(changed) == settled(World(rows=1_000_000, spec=spec(**change)).run(until="Running"))


def test_a_change_that_no_job_is_accepted_with_leaves_a_running_one_alone():
    refused = World(spec=spec(**REFUSED)).run(passes=20)
    assert [item.status for item in refused.status.conditions if item.type == "Accepted"] == ["False"]
    assert refused.cluster is None
    changed = running()
    changed.change(**REFUSED)
    assert settled(changed) == settled(running())


@pytest.mark.parametrize("change", [*MUTATIONS.values(), REFUSED], ids=[*MUTATIONS, "refused"])
def test_a_change_taken_back_leaves_nothing(change: dict[str, Any]):
    plain, changed = running(), running()
    before = {key: plain.spec.to_wire().get(key) for key in change}
    changed.change(**change)
    changed.run(passes=12)
    changed.change(**before)
    assert settled(changed) == settled(plain)


@pytest.mark.parametrize("first", MUTATIONS.values(), ids=MUTATIONS)
def test_two_changes_in_a_row_and_the_job_completes(first: dict[str, Any]):
    for second in MUTATIONS.values():
        world = World(rows=300).run(until="Running").run(passes=1)
        world.change(**first)
        world.step()
        world.change(**second)
        world.run(until="Complete").run(passes=20)
        assert world.committed == world.rows
        assert world.cluster is None


def test_a_change_while_nothing_can_run_counts_once_it_can():
    world = World(facts=ClusterFacts(kuberay_installed=False)).run(until="Stalled")
    world.change(**MUTATIONS["less spot"])
    world.facts = ClusterFacts()
    world.run(until="Running").run(passes=10)
    assert world.status.capacity is not None
    assert world.status.capacity.workers_wanted == 1
