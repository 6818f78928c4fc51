"""Whole lives of a job, pass by pass, against a cluster in memory that obeys the plans."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllerkit import SPOT, spec
from jobworld import World
from llmbatch.api.capacity import PAUSE_SECONDS
from llmbatch.api.conditions import Condition
from llmbatch.core.job.snapshot import ClusterFacts
from plancheck import holds

QUEUED = {"kueue.x-k8s.io/queue-name": "gpus"}


def condition(world: World, kind: str) -> Condition:
    return next(condition for condition in world.status.conditions if condition.type == kind)


def reasons(world: World) -> list[str]:
    return [event.reason for event in world.events]


def test_from_creation_to_complete():
    world = World().run(until="Complete")
    assert world.phases == ["Starting", "Running", "Complete"]
    assert (world.status.attempt, world.status.failures, world.status.interruptions) == (1, 0, 0)
    assert world.status.progress.rows_completed == world.rows
    assert reasons(world) == ["Running", "Complete"]
    world.run(passes=20)
    assert world.cluster is None
    assert len(world.children) == 5


def test_a_life_without_faults_needs_few_writes_whatever_the_rows():
    few, many = (World(rows=rows).run(until="Complete").run(passes=20) for rows in (100, 1_000))
    assert few.writes <= 16
    assert many.writes <= few.writes + 8


def test_nothing_is_written_once_it_ended():
    world = World().run(until="Complete").run(passes=20)
    before = world.writes
    world.run(passes=100)
    assert world.writes == before


def test_a_time_to_live_keeps_the_head_and_releases_the_workers():
    world = World(spec=spec(ttlSecondsAfterFinished=120)).run(until="Complete").run(passes=6)
    assert [pod.group for pod in world.pods if pod.gone_at is None] == ["head"]
    world.run(passes=40)
    assert world.cluster is None
    assert holds(world.status, "Complete")


def test_a_finished_job_never_runs_again():
    world = World().run(until="Complete").run(passes=20)
    world.change(capacity={"spot": {"max": 1, "tolerations": [SPOT]}}, suspend=False)
    world.run(passes=20)
    assert world.cluster is None
    assert holds(world.status, "Complete")
    assert world.status.attempt == 1


def test_a_lost_head_is_an_interruption_and_not_a_failure():
    world = World(rows=400).run(until="Running").run(passes=3)
    for attempt in range(2, 8):
        world.replace_head()
        world.run(until="Starting").run(until="Running")
        assert world.status.attempt == attempt
    world.run(until="Complete")
    assert (world.status.failures, world.status.interruptions) == (0, 6)


def test_a_restarted_head_counts_as_a_failure():
    world = World(rows=400).run(until="Running").run(passes=3)
    world.restart_head()
    world.run(until="Starting").run(until="Complete")
    assert (world.status.attempt, world.status.failures, world.status.interruptions) == (2, 1, 0)


def test_failures_back_off_and_end_the_job():
    world = World(fails_with=["InternalError: broken"] * 9)
    world.run(until="Failed")
    [failed] = [condition for condition in world.status.conditions if condition.type == "Failed"]
    assert failed.reason == "BackoffLimitExceeded"
    assert "InternalError: broken" in failed.message
    assert (world.status.attempt, world.status.failures) == (4, 4)
    assert reasons(world).count("AttemptFailed") == 3
    # 10, 20 and 40 s of backoff at least.
    assert world.now - 1_800_000_000.0 > 70


@pytest.mark.parametrize("error", ["InputError: no file matches in/*.jsonl", "ErrorRateError: 9 of 10 rows failed"])
def test_what_no_retry_can_change_ends_the_job_at_once(error: str):
    world = World(fails_with=[error]).run(until="Failed")
    [failed] = [condition for condition in world.status.conditions if condition.type == "Failed"]
    assert f"{failed.reason}: {failed.message}" == error
    assert world.status.attempt == 1


def test_suspend_commits_then_removes_the_cluster_and_resume_goes_on():
    world = World(rows=400).run(until="Running").run(passes=2)
    world.change(suspend=True)
    world.run(until="Suspending").run(until="Suspended")
    assert world.pauses == 1
    assert world.cluster is None
    done = world.committed
    world.run(passes=10)
    assert world.committed == done
    world.change(suspend=False)
    world.run(until="Complete")
    assert (world.status.attempt, world.status.failures, world.status.interruptions) == (2, 0, 0)
    assert not holds(world.status, "Suspended")


def test_a_job_created_suspended_waits_without_a_cluster():
    world = World(spec=spec(suspend=True)).run(until="Suspended").run(passes=5)
    assert world.cluster is None
    assert not world.children
    world.change(suspend=False)
    world.run(until="Complete")
    assert world.status.attempt == 1


@pytest.mark.parametrize("passes", range(1, 6))
def test_a_change_of_mind_while_pausing_resumes(passes: int):
    world = World(rows=400).run(until="Running").run(passes=2)
    world.change(suspend=True)
    world.run(passes=passes)
    world.change(suspend=False)
    world.run(until="Complete")
    assert (world.status.failures, world.status.interruptions) == (0, 0), "the operator's own doing is none"


def test_a_pause_that_is_taken_back_while_the_driver_drains_leaves_its_attempt_alone():
    world = World(rows=400, drain_seconds=60).run(until="Running").run(passes=2)
    world.change(suspend=True)
    world.run(until="Suspending").run(passes=3)
    assert world.status.pausing_since is not None
    world.change(suspend=False)
    world.step()
    assert world.status.pausing_since is None
    world.run(until="Complete")
    assert (world.status.attempt, world.status.interruptions) == (1, 0)


def test_a_driver_that_does_not_end_is_not_waited_for_for_ever():
    world = World(rows=10**6, drain_seconds=10**6).run(until="Running").run(passes=2)
    world.change(suspend=True)
    asked = world.run(until="Suspending").now
    world.run(until="Suspended")
    assert 0 <= world.now - asked - PAUSE_SECONDS < 60


def test_a_deadline_ends_the_job():
    world = World(spec=spec(activeDeadlineSeconds=30), rows=10_000).run(until="Failed").run(passes=20)
    [failed] = [condition for condition in world.status.conditions if condition.type == "Failed"]
    assert failed.reason == "DeadlineExceeded"
    assert world.cluster is None


def test_a_spent_budget_pauses_until_it_is_raised():
    prices = {"spot": 36.0, "onDemand": 72.0}
    world = World(spec=spec(budget={"maxCost": 1.0, "prices": prices}), rows=400).run(until="Suspended")
    [stalled] = [condition for condition in world.status.conditions if condition.type == "Stalled"]
    assert stalled.reason == "BudgetExhausted"
    assert world.pauses == 1
    assert 1.0 <= world.status.estimated_cost < 1.5
    world.change(budget={"maxCost": 100.0, "prices": prices})
    world.run(until="Complete")


def test_notices_are_counted_once_each_and_do_not_end_the_attempt():
    world = World(rows=600).run(until="Running").run(passes=4)
    names = world.notice_spot(2)
    world.run(passes=3)
    assert world.status.preemptions.total == 2
    assert {entry.worker for entry in world.status.preemptions.recent} == set(names)
    world.run(passes=6)
    assert world.notice_spot(1)
    world.run(until="Complete")
    assert world.status.preemptions.total == 3
    assert world.status.attempt == 1


def test_a_node_that_is_cordoned_and_left_so_is_given_back_and_counts_once():
    world = World(rows=10**6).run(until="Running").run(passes=4)
    [name] = world.cordon_spot(1)
    world.run(passes=10)
    assert name in {pod.name for pod in world.pods}
    assert world.cluster.groups[0].replicas == 5
    world.run(passes=60)
    assert name not in {pod.name for pod in world.pods}
    assert world.cluster.groups[0].replicas == 4
    assert sum(world.works(pod) for pod in world.pods if pod.group == "spot") == 4
    assert (world.status.preemptions.total, world.status.preemptions.failures) == (1, 0)
    assert (world.status.attempt, world.status.interruptions, world.status.failures) == (1, 0, 0)


def test_a_mistyped_image_is_mended_by_mending_the_job():
    typo = spec(image="registry.example/typo:1")
    world = World(spec=typo, missing_images={"registry.example/typo:1"}).run(until="Stalled").run(passes=20)
    assert condition(world, "Stalled").reason == "ImageUnavailable"
    world.change(image="registry.example/right:1")
    world.run(until="Complete")
    assert (world.status.attempt, world.status.interruptions, world.status.failures) == (1, 0, 0)
    assert world.status.preemptions is None


def test_what_else_is_changed_of_a_job_that_is_held_up_leaves_its_cluster_alone():
    typo = spec(image="registry.example/typo:1")
    world = World(spec=typo, missing_images={"registry.example/typo:1"}).run(until="Stalled")
    before = world.cluster.uid
    world.change(activeDeadlineSeconds=10**6)
    world.run(passes=20)
    assert world.cluster.uid == before


def test_a_job_whose_driver_began_says_how_a_change_is_applied():
    """The head and what the driver read are kept: only the user knows whether the change is worth them."""
    world = World(spot_nodes=0, spec=spec(capacity={"spot": {"max": 2, "nodeSelector": {"pool": "typo"}}}))
    world.run(until="Running").run(until="Stalled")
    before = world.cluster.uid
    world.change(capacity={"spot": {"max": 2, "nodeSelector": {"pool": "right"}}})
    world.run(passes=20)
    stalled = condition(world, "Stalled")
    assert (stalled.reason, world.cluster.uid) == ("Unschedulable", before)
    assert "suspend and resume" in stalled.message
    world.change(suspend=True)
    world.run(until="Suspended")
    world.spot_nodes = 100
    world.change(suspend=False)
    world.run(until="Complete")


def test_spot_that_does_not_come_is_said_in_seconds():
    world = World(spot_nodes=0, spec=spec(capacity={"spot": {"max": 2}}))
    started = world.now
    world.run(until="Stalled")
    assert world.now - started < 20
    [stalled] = [condition for condition in world.status.conditions if condition.type == "Stalled"]
    assert (stalled.reason, stalled.message) == (
        "Unschedulable",
        "No node takes a spot pod: Insufficient nvidia.com/gpu",
    )
    world.spot_nodes = 100
    world.run(until="Complete")
    assert "Moving" in reasons(world)


@pytest.mark.parametrize(
    ("facts", "reason", "created"),
    [
        (ClusterFacts(kuberay_installed=False), "KubeRayMissing", False),
        (ClusterFacts(missing_secrets=("reader",)), "SecretMissing", False),
        (ClusterFacts(forbidden=("rayclusters is forbidden",)), "Forbidden", True),
    ],
)
def test_what_the_cluster_lacks_is_said_and_waited_for(facts: ClusterFacts, reason: str, created: bool):
    world = World(facts=facts).run(until="Stalled")
    [stalled] = [condition for condition in world.status.conditions if condition.type == "Stalled"]
    assert stalled.reason == reason
    assert (world.cluster is not None) == created
    world.facts = ClusterFacts()
    world.run(until="Complete")


def test_a_queue_holds_the_cluster_back():
    world = World(labels=QUEUED).run(passes=10)
    assert world.status.phase == "Pending"
    assert "queue gpus" in condition(world, "ClusterReady").message
    assert world.cluster is not None
    assert world.cluster.suspended
    world.admit()
    world.run(until="Complete")


def test_a_queue_that_takes_the_cluster_back_interrupts_and_nothing_counts_against_the_job():
    world = World(labels=QUEUED, rows=5000).run(passes=5)
    world.admit()
    world.run(until="Running")
    world.evict()
    world.run(passes=20)
    assert world.status.phase == "Pending"
    assert condition(world, "ClusterReady").reason == "Queued"
    assert (world.status.interruptions, world.status.failures) == (1, 0)
    assert world.status.preemptions is None
    world.admit()
    world.run(passes=300, until="Complete")
    assert world.status.attempt == 2


def test_a_queue_decides_the_size_and_gets_it_all_back_at_the_end():
    """A resized cluster no longer matches what was admitted, so Kueue would evict it."""
    world = World(labels=QUEUED, spec=spec(ttlSecondsAfterFinished=3600)).run(passes=5)
    world.admit()
    world.run(until="Complete")
    assert world.resizes == 0
    world.run(passes=3)
    assert world.cluster is None


def test_a_queue_that_kueue_gave_the_cluster_by_default_counts_as_well():
    world = World().run(passes=2)
    assert world.cluster is not None
    world.cluster = world.cluster.model_copy(update={"queue": "default", "suspended": True})
    world.run(passes=5)
    assert condition(world, "ClusterReady").reason == "Queued"
    world.admit()
    before = world.resizes
    world.run(until="Complete")
    assert world.resizes == before


FAULTS: dict[str, Callable[[World], object]] = {
    "replace head": World.replace_head,
    "restart head": World.restart_head,
    "lose cluster": World.lose_cluster,
    "suspend": lambda world: world.change(suspend=True),
    "resume": lambda world: world.change(suspend=False),
    "notice": lambda world: world.notice_spot(2),
    "crash before": lambda world: world.step(crash_after=0),
    "crash halfway": lambda world: world.step(crash_after=1),
    "crash before status": lambda world: world.step(crash_after=-1),
    "stale": lambda world: world.step(stale=True),
    "bug": lambda world: world.fail_driver("InternalError: broken", 3),
}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from(list(FAULTS))), max_size=12))
def test_any_faults_at_any_time_and_the_job_still_completes(faults: list[tuple[int, str]]):
    """Crashes fall before, between and after the writes of a pass, and a pass may see the past.

    Every pass keeps every rule of `plancheck`.
    """
    world = World(rows=600, spec=spec(failurePolicy={"backoffLimit": 20}))
    for passes, fault in faults:
        world.run(passes=passes)
        FAULTS[fault](world)
    world.change(suspend=False)
    world.run(passes=400, until="Complete")
    world.run(passes=20)
    assert world.committed == world.rows
    assert world.cluster is None
    assert world.status.progress.rows_completed == world.rows
