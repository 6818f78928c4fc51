"""Spot that dries up and comes back, pass by pass, against a cluster in memory that obeys the plans."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from controllerkit import SPOT, spec
from jobworld import World
from llmbatch.core.job.times import unix

AFTER, RETURN = 60, 300


def dry_world(rows: int = 5000, **changes: object) -> World:
    """Return a job that may use 4 workers throughout, and whose spot nodes are all gone."""
    capacity = {
        "spot": {"max": 4, "tolerations": [SPOT]},
        "onDemand": {"max": 3},
        "fallback": {"afterSeconds": AFTER, "returnAfterSeconds": RETURN},
    }
    world = World(spec=spec(capacity=capacity, **changes), rows=rows, spot_nodes=4).run(until="Running").run(passes=4)
    world.lose_spot()
    return world


def working(world: World) -> Counter[str]:
    return Counter(pod.group for pod in world.pods if world.works(pod))


def told(world: World) -> list[str]:
    return [event.reason for event in world.events]


def run_for(world: World, seconds: float) -> World:
    end = world.now + seconds
    while world.now < end:
        world.step()
    return world


def test_on_demand_stands_in_after_the_wait_and_goes_when_spot_is_back():
    world = dry_world()
    began = world.now
    run_for(world, AFTER - 15)
    assert working(world)["on-demand"] == 0
    run_for(world, 45)
    assert working(world) == {"head": 1, "on-demand": 3}
    assert world.status.capacity is not None
    assert world.status.capacity.fallback_workers == 3
    since = unix(world.status.capacity.fallback_since)
    assert since is not None
    assert AFTER <= since - began <= AFTER + 15
    world.spot_nodes = 4
    run_for(world, RETURN + 60)
    assert working(world) == {"head": 1, "spot": 4}
    assert world.status.capacity.fallback_since is None
    assert [reason for reason in told(world) if "Spot" in reason or "OnDemand" in reason] == [
        "FellBackToOnDemand",
        "ReturnedToSpot",
    ]


def test_those_that_stand_in_work_until_spot_works():
    world = run_for(dry_world(), AFTER + 30)
    world.spot_nodes = 4
    least = 3
    for _ in range(120):
        world.step()
        least = min(least, sum(working(world).values()) - 1)
    assert least == 3
    assert working(world)["spot"] == 4


def test_a_lasting_drought_is_tried_again_and_costs_no_worker():
    world = run_for(dry_world(rows=50_000), AFTER + 30)
    for _ in range(200):
        world.step()
        assert working(world)["on-demand"] == 3
    tries = told(world).count("FellBackToOnDemand")
    assert 2 <= tries <= 4
    assert "ReturnedToSpot" not in told(world)


def test_the_lack_is_told_with_the_schedulers_words_within_seconds():
    world = dry_world()
    run_for(world, 12)
    [condition] = [condition for condition in world.status.conditions if condition.type == "Stalled"]
    assert (condition.status, condition.reason) == ("True", "Unschedulable")
    world.spot_nodes = 2
    run_for(world, 15)
    [degraded] = [condition for condition in world.status.conditions if condition.type == "Degraded"]
    assert (degraded.status, degraded.reason) == ("True", "Unschedulable")
    assert "Insufficient nvidia.com/gpu" in degraded.message


def test_a_queued_job_keeps_the_groups_it_was_admitted_with():
    world = dry_world()
    world.cluster = world.cluster.model_copy(update={"queue": "team"})
    run_for(world, AFTER + 60)
    assert "FellBackToOnDemand" not in told(world)


def test_a_suspended_job_starts_with_spot_again():
    world = run_for(dry_world(), AFTER + 30)
    world.change(suspend=True)
    world.run(until="Suspended")
    assert world.status.capacity is not None
    assert (world.status.capacity.fallback_workers, world.status.capacity.fallback_since) == (0, None)


MISHAPS = st.lists(st.tuples(st.sampled_from([None, 0, 1, 2]), st.booleans()), max_size=12)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 25)), min_size=1, max_size=6), MISHAPS)
def test_a_job_completes_in_any_weather_over_crashes_and_stale_reads(
    weather: list[tuple[int, int]], mishaps: list[tuple[int | None, bool]]
):
    world = dry_world(rows=1200)
    for nodes, passes in weather:
        world.spot_nodes = nodes
        for index in range(passes):
            crash_after, stale = mishaps[index] if index < len(mishaps) else (None, False)
            world.step(crash_after=crash_after, stale=stale)
            asked = {group.name: group.replicas for group in world.cluster.groups} if world.cluster else {}
            assert asked.get("on-demand", 0) <= 3
    world.spot_nodes = 4
    world.run(passes=400, until="Complete")
    assert world.status.failures == 0
