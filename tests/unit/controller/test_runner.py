"""A job's loop: what it does about each thing that can go wrong in a pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controllerkit import NOW, UID, cluster, job, running_snapshot, running_status
from llmbatch.api.base import API_VERSION, KIND
from llmbatch.api.job import LLMBatchJobStatus
from llmbatch.cluster.memory import Memory
from llmbatch.controller.jobs import Jobs
from llmbatch.controller.metrics import Metrics
from llmbatch.controller.runner import (
    BURST_SECONDS,
    FIRST_RETRY_SECONDS,
    HEAD_SECONDS,
    LONGEST_RETRY_SECONDS,
    LONGEST_STALE_SECONDS,
    REFUSED_SECONDS,
    STALE_SECONDS,
    JobRunner,
    Tools,
)
from llmbatch.controller.watch import JobKey
from llmbatch.core.job.running import BLOCKED_SECONDS
from llmbatch.core.job.snapshot import (
    JobObservation,
    NodeObservation,
    Notice,
    RayApiObservation,
    RuntimeObservation,
    Snapshot,
    WorkerGroupObservation,
)
from llmbatch.core.job.stall import UNSERVED_SECONDS
from llmbatch.core.job.times import rfc3339
from llmbatch.errors import (
    ApiServerError,
    ForbiddenError,
    HeadError,
    InternalError,
    LLMBatchError,
    RejectedError,
    StaleError,
)

KEY = JobKey("team", "summarise")


class Fakes:
    """The API server, an observer and an applier; `fails` says what the next calls of a name raise."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.fails: dict[str, list[Exception]] = {}
        self.calls: list[str] = []
        self.version = 7
        self.uid = UID
        self.status = snapshot.job.status
        self.woken: Callable[[], None] = lambda: None
        self.snapshots: Path | None = None

    def body(self) -> dict[str, Any]:
        metadata = {"name": KEY.name, "namespace": KEY.namespace, "uid": self.uid}
        metadata["resourceVersion"] = str(self.version)
        spec = self.snapshot.job.spec
        assert spec is not None
        document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec.to_wire()}
        return {**document, "status": self.status.to_wire()}

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if failures := self.fails.get(name):
            raise failures.pop(0)

    async def get(self, _: str) -> dict[str, Any] | None:
        self._call("get")
        return self.body() if self.uid else None

    async def observe(self, seen: JobObservation, memory: Memory, _: float) -> Snapshot:
        self._call("observe")
        return self.snapshot.model_copy(update={"job": seen, "facts": memory.facts(kuberay_installed=True)})

    def pass_time(self, seconds: float) -> None:
        self.snapshot = self.snapshot.model_copy(update={"now": self.snapshot.now + seconds})

    def stalled(self) -> tuple[str, str, str]:
        """Return status, reason and message of the stored condition."""
        found = next((item for item in self.status.conditions if item.type == "Stalled"), None)
        return ("", "", "") if found is None else (found.status, found.reason, found.message)

    async def head_of(self, *_: Any) -> None:
        return None

    async def act(self, action: Any, *_: Any) -> None:
        self._call(action.action)

    async def write_status(self, body: dict[str, Any], status: LLMBatchJobStatus) -> dict[str, Any]:
        self._call("write_status")
        assert body["metadata"]["resourceVersion"] == str(self.version)
        self.version += 1
        self.status = status
        return self.body()

    async def emit(self, *_: Any) -> None:
        self._call("emit")


def tools(fakes: Fakes) -> Tools:
    metrics = Metrics(dict, tuple, lambda: 0)
    return Tools(fakes, fakes, fakes, metrics, fakes.snapshots)  # type: ignore[arg-type]


def runner(fakes: Fakes) -> JobRunner:
    return JobRunner(KEY, fakes.body(), tools(fakes))


def one_pass(fakes: Fakes, made: JobRunner | None = None) -> float | None:
    """Run one pass, and return the seconds until the next one."""
    return asyncio.run((made or runner(fakes))._guarded_pass())


def new_job() -> Fakes:
    """A job whose attempt is written down and whose children are missing."""
    status = running_status(attempt_started_at=None)
    return Fakes(Snapshot(now=NOW, job=job(status=status)))


def running_job() -> Fakes:
    return Fakes(running_snapshot())


def resized_job() -> Fakes:
    """A job that runs and whose spot workers are too few."""
    groups = (WorkerGroupObservation(name="spot", index=0, replicas=1), *cluster().groups[1:])
    return Fakes(running_snapshot(cluster=cluster(groups=groups)))


@pytest.mark.parametrize(
    ("error", "soon"),
    [
        (ForbiddenError("no"), REFUSED_SECONDS),
        (RejectedError("no"), REFUSED_SECONDS),
        (StaleError("no"), STALE_SECONDS),
    ],
)
def test_an_action_refused_ends_the_actions_and_not_the_status(error: LLMBatchError, soon: float):
    fakes = new_job()
    fakes.fails = {"CreateChild": [error]}
    assert one_pass(fakes) == soon
    assert fakes.calls.count("CreateChild") == 1
    assert fakes.calls[-1] in ("write_status", "emit")


@pytest.mark.parametrize(("error", "reason"), [(ForbiddenError, "Forbidden"), (RejectedError, "Rejected")])
def test_an_action_that_stays_refused_is_tried_as_often_as_a_job_that_waits_is_looked_at(
    error: type[LLMBatchError], reason: str
):
    fakes = new_job()
    # Some policies name the request, so that no two refusals are the same.
    fakes.fails = {"CreateChild": [error(f"at most 4 GPUs, request {number}") for number in range(4)]}
    made = runner(fakes)
    assert [one_pass(fakes, made) for _ in range(4)] == [REFUSED_SECONDS, *[BLOCKED_SECONDS] * 3]
    assert fakes.calls.count("CreateChild") == 4
    assert fakes.stalled() == ("True", reason, "at most 4 GPUs, request 2")


def test_a_refusal_holds_no_more_once_its_action_passes():
    fakes = new_job()
    fakes.fails = {"CreateChild": [RejectedError("at most 4 GPUs")] * 2}
    made = runner(fakes)
    for _ in range(4):
        one_pass(fakes, made)
    assert fakes.stalled()[:2] == ("False", "Moving")


def test_a_refusal_holds_no_more_once_its_action_is_not_wanted():
    fakes = resized_job()
    fakes.fails = {"PatchWorkerGroup": [RejectedError("at most 2 workers")] * 2}
    made = runner(fakes)
    for _ in range(2):
        one_pass(fakes, made)
    assert fakes.stalled() == ("True", "Rejected", "at most 2 workers")
    fakes.snapshot = running_snapshot()
    for _ in range(2):
        one_pass(fakes, made)
    assert fakes.stalled()[:2] == ("False", "Moving")


def hung(snapshot: Snapshot) -> Snapshot:
    """Return what is seen of a job whose head has not answered for long."""
    pods = tuple(pod.model_copy(update={"created_at": NOW - 5000}) for pod in snapshot.pods)
    silent = {"ray": RayApiObservation(unreachable_since=NOW - 700), "runtime": RuntimeObservation(), "pods": pods}
    return snapshot.model_copy(update=silent)


@pytest.mark.parametrize("error", [ApiServerError("500: no"), ForbiddenError("no")])
def test_no_other_attempt_begins_before_a_hung_head_is_deleted(error: LLMBatchError):
    fakes = Fakes(hung(running_snapshot()))
    fakes.fails = {"DeleteRayCluster": [error]}
    made = runner(fakes)
    one_pass(fakes, made)
    assert (fakes.status.attempt, fakes.status.failures) == (1, 0)
    one_pass(fakes, made)
    assert fakes.calls.count("DeleteRayCluster") == 2
    assert (fakes.status.attempt, fakes.status.failures) == (2, 1)


def test_a_hung_head_is_a_failure_also_while_another_write_is_refused():
    fakes = resized_job()
    fakes.fails = {"PatchWorkerGroup": [RejectedError("at most 2 workers")] * 2}
    made = runner(fakes)
    for _ in range(2):
        one_pass(fakes, made)
    fakes.snapshot = hung(fakes.snapshot)
    one_pass(fakes, made)
    assert fakes.calls.count("DeleteRayCluster") == 1
    assert (fakes.status.attempt, fakes.status.failures, fakes.status.interruptions) == (2, 1, 0)


WEBHOOK = ApiServerError('POST /apis/ray.io/v1: 500: Internal error occurred: failed calling webhook "m.kb.io"')


def test_a_write_that_the_api_server_cannot_do_does_not_hold_up_the_status():
    fakes = resized_job()
    noticed = NodeObservation(name="node-of-w0", notice=Notice(kind="reclaim", source="test", lead_seconds=120))
    fakes.snapshot = fakes.snapshot.model_copy(update={"nodes": (noticed,)})
    fakes.fails = {"PatchWorkerGroup": [WEBHOOK]}
    made = runner(fakes)
    made._burst_ends = 0.0
    wait = one_pass(fakes, made)
    assert wait is not None
    assert wait <= FIRST_RETRY_SECONDS
    assert fakes.calls.count("PatchWorkerGroup") == 1
    assert fakes.status.preemptions is not None
    assert fakes.status.preemptions.counted == {"w0": rfc3339(NOW)}


def test_a_write_that_the_api_server_cannot_do_is_tried_less_and_less_and_told_if_it_lasts():
    fakes = new_job()
    fakes.fails = {"CreateChild": [WEBHOOK] * 9}
    made = runner(fakes)
    for number in range(9):
        wait = one_pass(fakes, made)
        longest = min(FIRST_RETRY_SECONDS * 2.0**number, LONGEST_RETRY_SECONDS)
        assert wait is not None
        assert longest / 2 <= wait <= longest
        lasted = fakes.snapshot.now - NOW >= UNSERVED_SECONDS
        assert fakes.stalled() == (("True", "ApiServerError", str(WEBHOOK)) if lasted else ("", "", ""))
        fakes.pass_time(wait)
    assert fakes.calls.count("CreateChild") == 9
    assert fakes.stalled()[0] == "True"
    for _ in range(2):
        one_pass(fakes, made)
    assert fakes.stalled()[1] != "ApiServerError"


def test_an_api_server_that_was_away_makes_no_job_stall_when_it_is_back():
    fakes = new_job()
    fakes.fails = {"CreateChild": [ApiServerError("503")] * 5, "write_status": [ApiServerError("503")] * 5}
    made = runner(fakes)
    for _ in range(5):
        one_pass(fakes, made)
        fakes.pass_time(UNSERVED_SECONDS)
    assert fakes.version == 7
    for _ in range(2):
        one_pass(fakes, made)
    assert fakes.version == 8
    assert fakes.stalled() == ("", "", "")


def test_a_head_that_does_not_answer_is_asked_again_soon():
    fakes = running_job()
    fakes.fails = {"SendCapacity": [HeadError("silent")]}
    assert one_pass(fakes) == HEAD_SECONDS


def test_a_silent_head_does_not_hold_up_the_workers():
    fakes = resized_job()
    fakes.fails = {"SendCapacity": [HeadError("silent")]}
    assert one_pass(fakes) == HEAD_SECONDS
    assert fakes.calls[:3] == ["observe", "SendCapacity", "PatchWorkerGroup"]


def test_a_status_refused_is_read_anew_and_nothing_is_told():
    fakes = new_job()
    fakes.fails = {"write_status": [StaleError("changed")]}
    made = runner(fakes)
    fakes.version = 9
    assert one_pass(fakes, made) == STALE_SECONDS
    assert fakes.calls[-2:] == ["write_status", "get"]
    assert "emit" not in fakes.calls
    one_pass(fakes, made)
    assert fakes.version == 10


@pytest.mark.parametrize("call", ["CreateChild", "write_status"])
def test_a_job_that_changes_faster_than_it_is_read_is_looked_at_less_and_less(call: str):
    fakes = new_job()
    fakes.fails = {call: [StaleError("changed")] * 12}
    made = runner(fakes)
    waits = [one_pass(fakes, made) for _ in range(12)]
    assert waits == [min(STALE_SECONDS * 2**number, LONGEST_STALE_SECONDS) for number in range(12)]
    one_pass(fakes, made)
    fakes.fails = {"CreateChild": [StaleError("changed")]}
    assert one_pass(fakes, made) == STALE_SECONDS


def test_a_job_that_is_gone_meanwhile_waits_for_its_end():
    fakes = new_job()
    fakes.fails = {"write_status": [StaleError("gone")]}
    made = runner(fakes)
    fakes.uid = ""
    assert one_pass(fakes, made) is None


def test_a_job_that_is_gone_gets_no_children_when_something_wakes_it():
    """Its children go as well, and each of them wakes its loop; the watch may not say for long that it is gone."""
    fakes = new_job()
    fakes.fails = {"write_status": [StaleError("gone")]}
    made = runner(fakes)
    fakes.uid = ""
    one_pass(fakes, made)
    fakes.calls.clear()
    assert one_pass(fakes, made) is None
    assert fakes.calls == ["get"]


def test_a_job_that_is_there_after_all_goes_on():
    """An API server that has just started may not know the definition yet."""
    fakes = new_job()
    fakes.fails = {"write_status": [StaleError("gone")]}
    made = runner(fakes)
    fakes.uid = ""
    one_pass(fakes, made)
    fakes.uid = UID
    assert one_pass(fakes, made) == STALE_SECONDS
    one_pass(fakes, made)
    assert fakes.calls[-1] == "write_status"


def test_failures_back_off_with_jitter_and_the_first_success_forgets_them():
    fakes = new_job()
    fakes.fails = {"observe": [ApiServerError("away")] * 12}
    made = runner(fakes)
    waits = [one_pass(fakes, made) or 0.0 for _ in range(12)]
    for number, wait in enumerate(waits):
        longest = min(0.5 * 2.0**number, 30.0)
        assert longest / 2 <= wait <= longest
    one_pass(fakes, made)
    fakes.fails = {"observe": [ApiServerError("away")]}
    assert (one_pass(fakes, made) or 9.0) <= 0.5


@pytest.mark.parametrize("error", [InternalError("broken"), KeyError("a mistake"), ZeroDivisionError()])
def test_a_mistake_in_one_pass_does_not_end_the_loop(error: Exception):
    fakes = new_job()
    fakes.fails = {"observe": [error]}
    made = runner(fakes)
    assert one_pass(fakes, made) is not None
    one_pass(fakes, made)
    assert "CreateChild" in fakes.calls


def test_an_event_that_is_not_posted_costs_nothing_else():
    fakes = running_job()
    fakes.snapshot = fakes.snapshot.model_copy(update={"cluster": None, "pods": ()})
    fakes.fails = {"emit": [ForbiddenError("no")] * 5}
    one_pass(fakes)
    assert fakes.calls.count("write_status") == 1
    assert "emit" in fakes.calls


def test_nothing_is_written_while_nothing_changes():
    fakes = running_job()
    made = runner(fakes)
    for _ in range(5):
        one_pass(fakes, made)
    assert fakes.calls.count("write_status") <= 1
    assert fakes.version <= 8


def test_notices_that_come_together_are_all_told_before_anything_is_written():
    fakes = running_job()
    made = runner(fakes)
    one_pass(fakes, made)
    for node in ("node-of-w0", "node-of-w1"):
        fakes.calls = []
        noticed = NodeObservation(name=node, notice=Notice(kind="reclaim", source="test", deadline=NOW + 60))
        fakes.snapshot = fakes.snapshot.model_copy(update={"nodes": (*fakes.snapshot.nodes, noticed)})
        wait = one_pass(fakes, made)
        assert wait is not None
        assert 0 < wait <= BURST_SECONDS[1]
        assert fakes.calls == ["observe", "SendCapacity"]
    made._burst_ends = 0.0
    one_pass(fakes, made)
    assert fakes.calls[-2:] == ["write_status", "emit"]
    assert fakes.status.preemptions is not None
    assert fakes.status.preemptions.total == 2


def test_an_older_sight_of_the_job_is_not_taken():
    """A watch may show the job as it was before the loop's own write."""
    fakes = new_job()
    made = runner(fakes)
    one_pass(fakes, made)
    mine = made._body["metadata"]["resourceVersion"]
    old = fakes.body()
    old["metadata"]["resourceVersion"] = "3"
    made.offer(old)
    assert made._body["metadata"]["resourceVersion"] == mine


def test_what_is_told_as_an_event_is_logged(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "llmbatch")
    fakes = running_job()
    fakes.snapshot = fakes.snapshot.model_copy(update={"cluster": None, "pods": ()})
    one_pass(fakes)
    assert fakes.calls.count("emit") == len(caplog.messages) > 0
    assert caplog.messages[0].startswith("team/summarise: ")


def test_the_snapshot_of_a_job_is_kept_as_long_as_the_job(tmp_path: Path):
    fakes = running_job()
    fakes.snapshots = tmp_path

    async def life() -> list[bool]:
        jobs, file = Jobs(tools(fakes)), tmp_path / "team.summarise.json"
        jobs.seen(KEY, fakes.body())
        await asyncio.sleep(0)
        kept = [file.exists()]
        jobs.gone(KEY, fakes.uid)
        kept.append(file.exists())
        jobs.seen(KEY, fakes.body())
        await asyncio.sleep(0)
        await jobs.close()
        return [*kept, file.exists()]

    assert asyncio.run(life()) == [True, False, True]


def test_the_late_events_of_an_earlier_job_of_the_name_do_not_end_the_loop_of_the_next_one():
    """kopf hands on the events of each object in order, and those of two objects as they come."""
    fakes = running_job()

    async def life() -> list[str]:
        jobs, earlier = Jobs(tools(fakes)), fakes.body()
        jobs.seen(KEY, earlier)
        fakes.uid, fakes.version = "the-next-one", 20
        jobs.seen(KEY, fakes.body())
        earlier["metadata"]["resourceVersion"] = "19"
        jobs.seen(KEY, earlier)
        jobs.gone(KEY, earlier["metadata"]["uid"])
        left = [runner.uid for runner in jobs._runners.values()]
        jobs.gone(KEY, "the-next-one")
        await jobs.close()
        return [*left, *(runner.uid for runner in jobs._runners.values())]

    assert asyncio.run(life()) == ["the-next-one"]


def test_a_pass_goes_on_where_its_snapshot_cannot_be_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    fakes = running_job()
    fakes.snapshots = tmp_path / "not there"
    assert one_pass(fakes) is not None
    assert "SendCapacity" in fakes.calls
    assert "its snapshot is not kept" in caplog.text


def test_the_order_of_a_pass_is_actions_then_status_then_events():
    fakes = new_job()
    one_pass(fakes)
    order = ["observe", "CreateChild", "write_status", "emit"]
    assert fakes.calls == sorted(fakes.calls, key=order.index)
    assert set(order[:3]) <= set(fakes.calls)
