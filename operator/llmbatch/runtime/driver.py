"""One attempt at a job, from the input's listing to `_FINAL`: the same on a laptop and on a Ray head.

The driver keeps nothing durable: what it counts is rebuilt from the ledger by the next attempt.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import nsmallest
from typing import Any, Literal, TypeAlias

from llmbatch.api.capacity import PAUSE_SECONDS
from llmbatch.api.job import LLMBatchJobSpec, RowProgress
from llmbatch.api.progress import Drains, PoolProgress, Progress, RunState
from llmbatch.api.runspec import RunSpec
from llmbatch.core.job.failure import error_rate_exceeded
from llmbatch.errors import ErrorRateError, InternalError, LLMBatchError
from llmbatch.runtime import pipeline
from llmbatch.runtime.desired import Desired
from llmbatch.runtime.embedded import RunOptions, embedded_ray, most_gpus_of_a_node, most_starting
from llmbatch.runtime.engines.checks import check_engines, check_gpus
from llmbatch.runtime.finalize import finalize
from llmbatch.runtime.history import History
from llmbatch.runtime.ledger import Ledger, batches
from llmbatch.runtime.outputs import output_schema
from llmbatch.runtime.pipeline import ShardResult
from llmbatch.runtime.pools.arbiter import Arbiter, Decision
from llmbatch.runtime.pools.check import missing_names
from llmbatch.runtime.pools.watch import PoolMonitor, configure_ray_data
from llmbatch.runtime.prompts import check_templates
from llmbatch.runtime.rates import Rate
from llmbatch.runtime.readers.listing import list_files, sample_fields
from llmbatch.runtime.records import Commit, Final, Manifest
from llmbatch.runtime.retries import begin_retry
from llmbatch.runtime.shards import SPLIT_BYTES, ShardKey, Split, plan_splits
from llmbatch.runtime.uniqueids import UniqueIds

TICK_SECONDS = 0.5
"""How often progress is reported."""
SLOWEST_SHARDS = 50
COMMITS_AT_ONCE = 1_000
"""Earlier commits that are taken in between two looks at the clock."""
STOP_SECONDS = 20.0
"""How long a stop waits for shards that are nearly through."""
DRAIN_SECONDS = PAUSE_SECONDS - 60.0
"""How long a pause waits for what is in flight: the rest is for hearing of it, for the end, and for telling that."""
RAYS_ADVICE = "\nFailed to apply UDF transform after "
"""How the advice on Ray's own settings begins that Ray Data 2.60 appends to the text of an error."""


_Item: TypeAlias = list[ShardResult] | tuple[Commit, ...] | BaseException | str
"""What the driver waits for: new results, earlier commits, an error, or the name of a source that has ended."""
_Asked: TypeAlias = Literal["", "stop", "pause"]
"""Whether the driver is to end before the job does: at once, or when what is in flight is through."""
_Items: TypeAlias = "queue.SimpleQueue[_Item]"


@dataclass(frozen=True, slots=True)
class ShardTiming:
    """How long a shard took."""

    shard: str
    """Its key."""
    seconds: float
    """Replica-seconds its rows took in all stages."""
    rows: int
    """Rows in it."""
    failed: int
    """Rows with an error in it."""
    worker: str
    """Where it was committed."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """How an attempt ended."""

    state: Literal["complete", "failed", "stopped"]
    """complete (`_FINAL` is there), failed (by the job's policy) or stopped (asked to)."""
    progress: Progress
    """The last progress."""
    history: list[Progress]
    """Progress over time, thinned out in a long run."""
    shards: list[ShardTiming]
    """The slowest shards of this attempt."""
    final: dict[str, Any] | None
    """`_FINAL`, when complete."""
    error: str = ""
    """Why it failed."""


@dataclass(slots=True)
class _Tally:
    """What the ledger holds, as far as this driver has seen."""

    rows: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    shards: int = 0
    new_rows: int = 0
    repeated_rows: int = 0
    stage_tokens: list[int] = field(default_factory=list)
    timings: list[ShardTiming] = field(default_factory=list)

    def add(self, commit: Commit) -> None:
        self.rows += commit.rows
        self.failed += commit.failed
        self.prompt_tokens += commit.prompt_tokens
        self.completion_tokens += commit.completion_tokens
        self.shards += 1

    def add_new(self, result: ShardResult) -> None:
        commit = result.record
        self.add(commit)
        self.new_rows += commit.rows
        self.repeated_rows += 0 if result.won else commit.rows
        before = self.stage_tokens or [0] * len(result.tokens)
        self.stage_tokens = [sum(pair) for pair in zip(before, result.tokens, strict=True)]
        timing = ShardTiming(commit.shard, commit.seconds, commit.rows, commit.failed, commit.worker)
        slowest = [*self.timings, timing]
        self.timings = nsmallest(SLOWEST_SHARDS, slowest, key=lambda shard: -shard.seconds)


def run(
    run_spec: RunSpec,
    *,
    on_progress: Callable[[Progress], None],
    stop: threading.Event,
    desired: Desired | None = None,
    options: RunOptions | None = None,
) -> RunResult:
    """Run one attempt at a job, to its end, or until `stop` is set or `desired` says pause.

    A stop waits for what is nearly through, a pause for all that was begun, `DRAIN_SECONDS` at most.
    What earlier attempts committed is not read again. Progress is reported every `TICK_SECONDS`.

    Raises:
        UserError: the job, its input or its output is of no use, or this machine lacks the GPUs; no row was run.
        InternalError: a contract broke; what is committed stays.
    """
    return _Attempt(run_spec, on_progress, stop, desired or Desired(), options or RunOptions()).run()


class _Attempt:
    def __init__(
        self,
        run_spec: RunSpec,
        on_progress: Callable[[Progress], None],
        stop: threading.Event,
        desired: Desired,
        options: RunOptions,
    ) -> None:
        self.run_spec = run_spec
        self.spec: LLMBatchJobSpec = run_spec.spec
        self.on_progress = on_progress
        self.stop = stop
        self.desired = desired
        self.options = options
        self.tally = _Tally()
        self.skipped = 0
        self.counted = True
        """Whether the tally holds all that was committed when this attempt began."""
        self.history = History()
        missing = missing_names()
        policy = self.spec.allocation.policy
        self.arbiter = (
            None if policy == "stock" or missing else Arbiter(self.spec, policy, desired, most_starting(options))
        )
        self.monitor = PoolMonitor(self.arbiter)
        self.rates = {name: Rate() for name in ["", *(stage.name for stage in self.spec.stages)]}
        self.started = time.monotonic()
        self.warnings = _warnings(self.spec, missing)

    def run(self) -> RunResult:
        files = list(list_files(self.spec.input))
        check_templates(self.spec, sample_fields(files, self.spec.input))
        check_engines(self.spec)
        output_schema(self.spec)
        self.ledger = Ledger.open(self.spec.output, self.run_spec.spec_hash, self.run_spec.job)
        if self.spec.retry_failed:
            self.ledger = begin_retry(self.ledger, self.run_spec.uid, datetime.now(UTC))
        final = self.ledger.read_final()
        if final is not None and final.retry >= self.ledger.retry:
            return self._already_complete(final)
        mine = Manifest(self.run_spec.spec_hash, self.spec.shard_rows, SPLIT_BYTES, tuple(files))
        self.manifest = self.ledger.create_manifest(mine)
        later = self.manifest.check_inputs(files)
        if later:
            self.warnings = (*self.warnings, f"{len(later)} files came after the job began and are not read")
        self.ids = UniqueIds(self.ledger, self.manifest, self.spec.input)
        committed = sorted(self.ledger.committed())
        self.skipped = len(committed)
        todo = list(plan_splits(self.manifest.files, self.spec.input, committed, self.manifest.split_bytes))
        return self._process(todo, committed)

    def _process(self, todo: Sequence[Split], committed: Sequence[ShardKey]) -> RunResult:
        try:
            if todo:
                return self._stream(todo, committed)
            self._take_earlier(self.ledger.load_commits(committed))
            return self._conclude()
        except ErrorRateError as error:
            return self._result("failed", None, f"{type(error).__name__}: {error}")

    def _conclude(self) -> RunResult:
        if self._asked():
            return self._result("stopped", None)
        self._check_error_rate(finished=True)
        final = finalize(self.ledger, self.manifest, self.spec, datetime.now(UTC), self.ids)
        # A split without rows is committed where it is read: of that one nothing came here.
        self.tally.shards = final.shards
        self._report("complete")
        return self._result("complete", final)

    def _stream(self, todo: Sequence[Split], committed: Sequence[ShardKey]) -> RunResult:
        items: _Items = queue.SimpleQueue()
        self.counted = False
        # Beside Ray's start and the first rows, for which it is of no account: 10^5 commits take a while to read.
        ended = threading.Event()
        earlier = threading.Thread(
            target=_pump, args=(_earlier(self.ledger, committed, ended), items, "earlier"), daemon=True, name="earlier"
        )
        earlier.start()
        try:
            switches = any(stage.resources.gpus for stage in self.spec.stages)
            with embedded_ray(self.options, self.desired, preload=switches):
                if not self._stream_through_ray(todo, items):
                    return self._result("stopped", None)
                # Before Ray's end, which takes a second or two: nothing must come between the last row and `_FINAL`.
                return self._conclude()
        finally:
            ended.set()
            earlier.join(STOP_SECONDS)

    def _stream_through_ray(self, todo: Sequence[Split], items: _Items) -> bool:
        gpus = most_gpus_of_a_node(self.options)
        if gpus is not None:
            check_gpus(self.spec, gpus)
        configure_ray_data(self.monitor, self.spec.allocation.reservation_ratio)
        cores = os.cpu_count() if self.options.address is None else None
        dataset = pipeline.build(self.spec, self.manifest, todo, self.ledger, cores)
        pump = threading.Thread(target=_pump, args=(_results(dataset), items, "new"), daemon=True, name="commits")
        pump.start()
        try:
            return self._follow(items)
        finally:
            # A thread that asks Ray for a block while Ray shuts down ends the whole process.
            self.monitor.end()
            pump.join(STOP_SECONDS)

    def _follow(self, items: _Items) -> bool:
        """Take in results to their end; tell whether it was reached, or the run is left before it."""
        asked: _Asked = ""
        since = 0.0
        open_sources = {"earlier", "new"}
        while open_sources:
            received = _received(items, TICK_SECONDS)
            for item in received:
                if isinstance(item, BaseException):
                    self._report("running")
                    raise cause_of(item) from item
                if isinstance(item, str):
                    open_sources.discard(item)
                elif isinstance(item, tuple):
                    self._take_earlier(item)
                else:
                    self._take_new(item)
            self.counted = "earlier" not in open_sources
            self._report("running")
            self._check_error_rate(finished=False)
            if (word := self._asked()) != asked:
                asked, since = word, time.monotonic()
            if asked and self._may_leave(asked, time.monotonic() - since, idle=not received):
                return False
        return True

    def _asked(self) -> _Asked:
        if self.stop.is_set():
            return "stop"
        return "pause" if self.desired.latest().pause else ""

    def _may_leave(self, asked: _Asked, waited: float, *, idle: bool) -> bool:
        # Without the arbiter, new shards go on entering the pipeline.
        if asked == "pause" and self.arbiter is not None:
            return waited >= DRAIN_SECONDS or self._drained()
        return waited >= STOP_SECONDS or idle

    def _drained(self) -> bool:
        """Tell whether nothing works, and all that entered the first stage is committed or the rest of it cannot be."""
        pools = self.monitor.latest().pools
        if not pools:
            return True
        if pools[0].ready or pools[0].pending or any(pool.in_flight_rows for pool in pools):
            return False
        decision = None if self.arbiter is None else self.arbiter.latest()
        stalled = decision is not None and decision.stall_reason
        return pools[-1 if stalled else 0].rows_completed <= self.tally.new_rows

    def _take_earlier(self, commits: Iterable[Commit]) -> None:
        for commit in commits:
            self.tally.add(commit)
            self._check_unique(commit)

    def _take_new(self, results: Iterable[ShardResult]) -> None:
        for result in results:
            self.tally.add_new(result)
            self._check_unique(result.record)

    def _check_unique(self, commit: Commit) -> None:
        if self.spec.input.unique_ids == "check":
            self.ids.add(commit)

    def _check_error_rate(self, *, finished: bool) -> None:
        if not self.counted:
            return
        limit = self.spec.failure_policy.max_error_rate
        if error_rate_exceeded(self.tally.failed, self.tally.rows, self._rows_total(), limit, finished=finished):
            raise ErrorRateError(
                f"failurePolicy.maxErrorRate: {self.tally.failed} of {self.tally.rows} rows failed, "
                f"more than the {limit:.2%} allowed; read the error column of the output, mend the cause and run "
                "`llmbatch retry-failed`, or allow more"
            )

    def _rows_total(self) -> int | None:
        sample = self.monitor.latest()
        if not (self.counted and sample.read_finished):
            return None
        return self.tally.rows - self.tally.new_rows + sample.rows_read

    def _report(self, state: RunState) -> None:
        progress = self._progress(state)
        self.history.add(progress)
        self.on_progress(progress)

    def _progress(self, state: RunState, error: str = "") -> Progress:
        now = time.monotonic()
        tally = self.tally
        total = tally.rows if state == "complete" else self._rows_total()
        rate = self.rates[""].update(now, tally.new_rows)
        left = None if total is None or rate <= 0 else round((total - tally.rows) / rate)
        decision = None if self.arbiter is None else self.arbiter.latest()
        return Progress(
            state=state,
            spec_hash=self.run_spec.spec_hash,
            attempt=self.run_spec.attempt,
            elapsed_seconds=now - self.started,
            rows=RowProgress(
                percentage=None if total is None else _percentage(tally.rows, total),
                rows_total=total,
                rows_completed=tally.rows,
                rows_failed=tally.failed,
                estimated_remaining_seconds=left,
                prompt_tokens=tally.prompt_tokens,
                completion_tokens=tally.completion_tokens,
            ),
            rows_per_second=rate,
            shards_committed=tally.shards,
            shards_skipped=self.skipped,
            rows_repeated=tally.repeated_rows,
            drains=Drains() if decision is None else decision.drains,
            pools=self._pools(now, decision),
            gpus=0 if decision is None else decision.gpus,
            useful_gpus=None if decision is None else decision.useful_gpus,
            allocation_policy="stock" if self.arbiter is None else self.spec.allocation.policy,
            stall_reason="" if decision is None else decision.stall_reason,
            warnings=self.warnings,
            error=error,
        )

    def _pools(self, now: float, decision: Decision | None) -> tuple[PoolProgress, ...]:
        samples = self.monitor.latest().pools
        if len(samples) != len(self.spec.stages):
            return tuple(PoolProgress(name=stage.name) for stage in self.spec.stages)
        tokens = self._tokens_per_row()
        found = []
        for index, (stage, sample) in enumerate(zip(self.spec.stages, samples, strict=True)):
            there = sample.ready + sample.pending + sample.restarting
            rate = self.rates[stage.name].update(now, sample.rows_completed)
            gpus = stage.resources.gpus or 1
            service = sample.busy_seconds * gpus / sample.rows_completed if sample.rows_completed else None
            found.append(
                PoolProgress(
                    name=stage.name,
                    target=there if decision is None else decision.targets[index],
                    ready=sample.ready,
                    pending=sample.pending,
                    restarting=sample.restarting,
                    retiring=sample.retiring,
                    queued_rows=sample.queued_rows,
                    in_flight_rows=sample.in_flight_rows,
                    rows_completed=sample.rows_completed,
                    rows_per_second=rate,
                    tokens_per_second=rate * tokens[index],
                    service_seconds_per_row=service,
                    load_seconds=sample.load_seconds,
                    explanation="" if decision is None else decision.explanations[index],
                )
            )
        return tuple(found)

    def _tokens_per_row(self) -> list[float]:
        committed = max(1, self.tally.new_rows)
        return [tokens / committed for tokens in self.tally.stage_tokens or [0] * len(self.spec.stages)]

    def _already_complete(self, final: Final) -> RunResult:
        self.tally = _Tally(
            rows=final.rows,
            failed=final.failed,
            prompt_tokens=final.prompt_tokens,
            completion_tokens=final.completion_tokens,
            shards=final.shards,
        )
        self.skipped = final.shards
        self._report("complete")
        return self._result("complete", final)

    def _result(
        self, state: Literal["complete", "failed", "stopped"], final: Final | None, error: str = ""
    ) -> RunResult:
        end: RunState = "paused" if state == "stopped" else state
        progress = self._progress(end, error)
        return RunResult(
            state=state,
            progress=progress,
            history=self.history.points,
            shards=self.tally.timings,
            final=None if final is None else final.to_wire(),
            error=error,
        )


def _pump(source: Iterable[_Item], items: _Items, name: str) -> None:
    # In a thread, because sources block for as long as nothing comes. Whatever one raises is handed over, and raised
    # in the driver.
    try:
        for item in source:
            items.put(item)
    except BaseException as error:  # noqa: BLE001
        items.put(error)
    else:
        items.put(name)


def _results(dataset: Any) -> Iterator[list[ShardResult]]:
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield pipeline.results_of(block)


def _earlier(ledger: Ledger, keys: Sequence[ShardKey], ended: threading.Event) -> Iterator[tuple[Commit, ...]]:
    for commits in batches(ledger.load_commits(keys), COMMITS_AT_ONCE):
        if ended.is_set():
            return
        yield tuple(commits)


def _received(items: _Items, seconds: float) -> list[_Item]:
    """Return what arrives within some seconds, or until a source ends."""
    wait_until = time.monotonic() + seconds
    received: list[_Item] = []
    while (left := wait_until - time.monotonic()) > 0:
        try:
            received.append(items.get(timeout=left))
        except queue.Empty:
            break
        if isinstance(received[-1], str | BaseException):
            break
    return received


def cause_of(error: BaseException) -> BaseException:
    """Return the llmbatch error inside what Ray raised, or an InternalError that carries Ray's words."""
    from ray.exceptions import RayError

    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)
        for candidate in (seen, cause):
            # Ray makes an error that is of its own class and of the cause's at once, with a worker's traceback in it.
            if isinstance(candidate, LLMBatchError) and not isinstance(candidate, RayError):
                return type(candidate)(str(candidate).partition(RAYS_ADVICE)[0])
        seen = seen.__cause__ or (cause if isinstance(cause, BaseException) else None)
    return InternalError(f"the pipeline stopped: {type(error).__name__}: {error}")


def _percentage(rows: int, total: int) -> float:
    """Return a share in percent with one digit after the point, rounded down: 100 is all of them."""
    return (1000 * rows // total) / 10 if total else 100.0


def _warnings(spec: LLMBatchJobSpec, missing: str) -> tuple[str, ...]:
    simulated = [stage.name for stage in spec.stages if stage.engine == "simulated"]
    found = []
    if simulated:
        found.append(f"simulated engine: the output of {', '.join(simulated)} is made up, no model runs")
    if missing:
        found.append(
            f"this Ray lacks {missing}: Ray Data's own autoscaler sizes the pools, there are no pool figures, "
            "and blocks are larger than shards"
        )
    return tuple(found)
