"""One loop a job: observe, decide, apply, one status write; then wait for a change or the time the plan names."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmbatch.api.base import KIND
from llmbatch.cluster import paths
from llmbatch.cluster.apply import Applier
from llmbatch.cluster.client import KubeClient
from llmbatch.cluster.memory import Memory
from llmbatch.cluster.observe import Observer
from llmbatch.cluster.projections import job_of
from llmbatch.controller.metrics import JobFigures, Metrics, Recovery
from llmbatch.controller.watch import JobKey
from llmbatch.core.job.decide import decide
from llmbatch.core.job.plan import Action, Plan, SendCapacity, StopRayJob, SubmitRayJob
from llmbatch.core.job.running import BLOCKED_SECONDS
from llmbatch.core.job.snapshot import JobObservation, Snapshot
from llmbatch.errors import (
    ApiServerError,
    ForbiddenError,
    HeadError,
    LLMBatchError,
    RejectedError,
    StaleError,
    TransientError,
)

logger = logging.getLogger(__name__)

REFUSED_SECONDS = 1.0
"""A refusal by the API server is in the status after this long: the pass that met it could not know. After that it is
tried again as often as a job is looked at that waits for something."""
STALE_SECONDS, LONGEST_STALE_SECONDS = 0.2, 10.0
"""A plan that met a changed object is made anew after this long, doubled for each one that meets one again."""
HEAD_SECONDS = 2.0
"""A head that did not take an action is asked again after this long: its driver may just be starting."""
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.5, 30.0
COALESCE_SECONDS = 0.05
"""Changes that come together, such as the pods of one node, are one pass."""
BURST_SECONDS = (0.3, 1.0)
"""Notices come together too, as when a zone runs out of spot capacity. For so long after the first of them, drawn
evenly, the runtime is told and nothing is written: a second notice would wait for the writes of every job.
"""


class Tools:
    """What every loop shares."""

    def __init__(
        self, kube: KubeClient, observer: Observer, applier: Applier, metrics: Metrics, snapshots: Path | None
    ) -> None:
        self.kube, self.observer, self.applier, self.metrics = kube, observer, applier, metrics
        self.snapshots = snapshots


class Halt(NamedTuple):
    """What ended the actions of a pass."""

    action: Action
    """The one that was not carried out."""
    error: LLMBatchError
    """Why."""


class JobRunner:
    """Drives one job, from the first sight of it until it is gone."""

    def __init__(self, key: JobKey, body: Mapping[str, Any], tools: Tools) -> None:
        self.key, self._body, self._tools = key, body, tools
        self._read: tuple[Mapping[str, Any], JobObservation] | None = None
        self._memory = Memory()
        self._awake = asyncio.Event()
        self._failures = 0
        self._gone = False
        self._stale = 0
        self.pass_began: float | None = None
        """Monotonic time at which the present pass began; None between passes."""
        self.phase = "Pending"
        """The phase of the stored status."""
        self.figures: JobFigures | None = None
        """What the last pass saw, for the metrics."""
        self._recovery = Recovery()
        self._woken_at: float | None = None
        self._woken_next: float | None = None
        self._told: set[str] = set()
        self._burst_ends: float | None = None
        self._noticed: dict[str, float] = {}

    @property
    def uid(self) -> str:
        """The job's uid: a namesake that comes later is another job."""
        uid: str = self._body["metadata"]["uid"]
        return uid

    def is_before(self, body: Mapping[str, Any]) -> bool:
        """Tell whether what the loop knows of its job is older than an object, of whichever job."""
        return _version(self._body) < _version(body)

    def offer(self, body: Mapping[str, Any]) -> None:
        """Take a job as a watch shows it, unless the loop knows a later one already, as after its own write."""
        if _version(body) > _version(self._body):
            self._body = body
            self.wake()

    def wake(self) -> None:
        """Ask for a pass now."""
        if not self._awake.is_set():
            self._woken_next = time.monotonic()
        self._awake.set()

    async def run(self) -> None:
        """Run until cancelled, or until the job is gone."""
        while True:
            self._woken_at, self._woken_next = self._woken_next, None
            self._awake.clear()
            delay = await self._guarded_pass()
            if delay is None:
                await self._awake.wait()
            else:
                await _wait(self._awake, delay)
            await asyncio.sleep(COALESCE_SECONDS)

    async def _guarded_pass(self) -> float | None:
        """Run a pass; return the seconds until the next one, None: until a change."""
        if self._gone:
            return await self._read_again()
        self.pass_began = time.monotonic()
        stale = self._stale
        try:
            delay = await self._pass()
        except StaleError as error:
            logger.info("%s: %s", _name(self.key), error)
            delay = await self._read_again()
            return None if delay is None else max(delay, self._after_stale())
        except TransientError as error:
            return self._later(error)
        except LLMBatchError as error:
            return self._later(error)
        except Exception as error:
            # A mistake in one pass of one job must not end the job's loop: nobody would look at the job again.
            logger.exception("%s: a pass failed", _name(self.key))
            return self._later(error)
        finally:
            self._tools.metrics.passes.observe(time.monotonic() - self.pass_began)
            self.pass_began = None
        self._failures = 0
        if self._stale == stale:
            self._stale = 0
        return delay

    async def _pass(self) -> float | None:
        body, tools = self._body, self._tools
        job = self._job_of(body)
        self.phase = job.status.phase or "Pending"
        snapshot = await tools.observer.observe(job, self._memory, time.time())
        self._save(snapshot)
        plan = decide(snapshot)
        self.figures = figures = JobFigures.of(snapshot, plan.status)
        if plan.actions or plan.status != job.status:
            logger.debug("%s: %s", _name(self.key), "; ".join(plan.reasons))
        if (wait := self._burst_left(untold=self._notice(plan))) > 0:
            await self._act([action for action in plan.actions if isinstance(action, SendCapacity)], snapshot)
            return wait
        soon, halt = await self._act(plan.actions, snapshot)
        waits = [soon, plan.requeue_after, None if halt is None else self._halted(halt, snapshot.now)]
        another = plan.status.attempt != job.status.attempt
        if halt is not None and another:
            # It begins once what is left of the last one is gone: after that nothing would ask for it.
            raise halt.error
        if halt is None and self._memory.refused is not None:
            self._memory.refused = None
            if not another:
                # The status of this plan may tell of the refusal.
                return 0.0
        if plan.status != job.status:
            await self._write(job, body, plan)
        preempted = tools.metrics.count_preemptions(job.status, plan.status, snapshot)
        self._time_recovery(figures, preempted=preempted)
        if halt is not None and isinstance(halt.error, ApiServerError):
            raise halt.error
        return min((wait for wait in waits if wait is not None), default=None)

    def _job_of(self, body: Mapping[str, Any]) -> JobObservation:
        """Return the job as it is read; most passes see the one that the pass before saw."""
        if self._read is None or self._read[0] is not body:
            self._read = body, job_of(body)
        return self._read[1]

    async def _act(self, actions: Sequence[Action], snapshot: Snapshot) -> tuple[float | None, Halt | None]:
        """Carry out the actions up to the first that the API server does not.

        A head that does not answer holds up only what is for the head. The status does not depend on any of it: it
        says what was observed and what is intended.

        Returns:
            How soon to look again if a head says so, and what ended the actions if something did.
        """
        if not actions:
            return None, None
        head = await self._tools.observer.head_of(snapshot, self._memory)
        soon: float | None = None
        for action in actions:
            if soon == HEAD_SECONDS and isinstance(action, SubmitRayJob | StopRayJob | SendCapacity):
                continue
            try:
                answer = await self._tools.applier.act(action, snapshot.job, self._memory, head)
            except (ForbiddenError, RejectedError, StaleError, ApiServerError) as error:
                logger.log(_level(error), "%s: %s: %s", _name(self.key), action.action, error)
                return soon, Halt(action, error)
            except HeadError as error:
                logger.info("%s: %s: %s", _name(self.key), action.action, error)
                self._tools.metrics.errors.labels(type(error).__name__).inc()
                soon = HEAD_SECONDS
                continue
            self._tools.metrics.actions.labels(action.action).inc()
            if isinstance(action, SendCapacity):
                self._delivered(action)
                if answer is not None and answer.state in ("paused", "complete", "failed"):
                    soon = 0.0
        return soon, None

    def _halted(self, halt: Halt, now: float) -> float:
        """Keep what the API server did not carry out for the next snapshot; return how soon to look again."""
        if isinstance(halt.error, StaleError):
            return self._after_stale()
        told = self._memory.refuse(halt.action, halt.error, now)
        return BLOCKED_SECONDS if told else REFUSED_SECONDS

    def _delivered(self, sent: SendCapacity) -> None:
        """Measure, for each worker that the runtime hears of for the first time, how long that took."""
        doomed = {worker.worker for worker in sent.capacity.doomed}
        now = time.monotonic()
        for worker in doomed - self._told:
            self._tools.metrics.notice_to_runtime.observe(now - self._noticed.get(worker, now))
        self._told = doomed
        self._noticed = {}

    def _notice(self, plan: Plan) -> bool:
        """Note since when each worker is doomed that the runtime was not told of: since what woke this pass.

        Returns:
            Whether there is one.
        """
        sent = (action.capacity.doomed for action in plan.actions if isinstance(action, SendCapacity))
        untold = {worker.worker for workers in sent for worker in workers} - self._told
        began = self._woken_at if self._woken_at is not None else time.monotonic()
        for worker in untold:
            self._noticed.setdefault(worker, began)
        return bool(untold)

    def _burst_left(self, *, untold: bool) -> float:
        """Return how long to wait for more notices before anything is written, in seconds.

        What waits is decided anew afterwards, so nothing is lost with the process meanwhile.
        """
        now = time.monotonic()
        if self._burst_ends is None:
            self._burst_ends = now + random.uniform(*BURST_SECONDS) if untold else now  # noqa: S311 - no secret
        left = self._burst_ends - now
        if left <= 0:
            self._burst_ends = None
        return left

    async def _write(self, job: JobObservation, body: Mapping[str, Any], plan: Plan) -> None:
        written = await self._tools.applier.write_status(body, plan.status)
        if _version(written) > _version(self._body):
            self._body = written
        self.phase = plan.status.phase or "Pending"
        self._tools.metrics.status_writes.inc()
        for event in plan.events:
            logger.info("%s: %s: %s", _name(self.key), event.reason, event.message)
            try:
                await self._tools.applier.emit(job, event)
            except LLMBatchError as error:
                logger.warning("%s: event %s not posted: %s", _name(self.key), event.reason, error)

    def _time_recovery(self, figures: JobFigures, *, preempted: bool) -> None:
        took = self._recovery.update(time.monotonic(), figures, preempted=preempted)
        if took is not None:
            self._tools.metrics.recovery.observe(took)

    async def _read_again(self) -> float | None:
        try:
            body = await self._tools.kube.get(paths.single(KIND, *self.key))
        except LLMBatchError as error:
            return self._later(error)
        if body is None or body["metadata"]["uid"] != self.uid:
            # The watch will say so too, and end this loop. Until then nothing is done for the job, whatever wakes it.
            self._gone = True
            return None
        self._gone, self._body = False, body
        return STALE_SECONDS

    def _after_stale(self) -> float:
        """Return how long to wait after a plan that met a changed object: doubled each time, as long as each does."""
        self._stale += 1
        return min(STALE_SECONDS * 2.0 ** min(self._stale - 1, 10), LONGEST_STALE_SECONDS)

    def _later(self, error: Exception) -> float:
        """Return how long to wait after a failure: doubled each time, with jitter, so that a thousand jobs spread."""
        self._tools.metrics.errors.labels(type(error).__name__).inc()
        if not isinstance(error, TransientError) or self._failures:
            logger.warning("%s: %s: %s", _name(self.key), type(error).__name__, error)
        wait = min(FIRST_RETRY_SECONDS * 2.0 ** min(self._failures, 10), LONGEST_RETRY_SECONDS)
        self._failures += 1
        return wait * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret

    def forget(self) -> None:
        """Remove what is kept of a job that is gone."""
        if (file := self._snapshot_file()) is not None:
            file.unlink(missing_ok=True)

    def _save(self, snapshot: Snapshot) -> None:
        if (file := self._snapshot_file()) is None:
            return
        part = file.with_suffix(".part")
        try:
            part.write_text(snapshot.model_dump_json(by_alias=True, exclude_none=True), encoding="utf-8")
            part.replace(file)
        except OSError as error:
            logger.warning("%s: its snapshot is not kept: %s", _name(self.key), error)

    def _snapshot_file(self) -> Path | None:
        folder = self._tools.snapshots
        return None if folder is None else folder / f"{self.key.namespace}.{self.key.name}.json"


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


def _version(body: Mapping[str, Any]) -> int:
    """Return an object's resourceVersion as a number: of one kind, the greater one is the later (KEP-5504)."""
    return int(body["metadata"]["resourceVersion"])


def _level(error: LLMBatchError) -> int:
    """Return how loud an error of one action is in the log: what a later pass mends by itself is not."""
    return logging.INFO if isinstance(error, TransientError) else logging.WARNING


def _name(key: JobKey) -> str:
    return f"{key.namespace}/{key.name}"
