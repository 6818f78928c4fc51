"""Stages whose engine runs in the replica: `ray.data.llm` describes and loads it, rows pass it here.

`build_processor` turns a stage into an actor pool: it fetches the model, sets the engine's arguments and its
executor, and sizes actors and GPUs. Its own steps around the engine are left out, for three reasons (Ray 2.60):

- they map row by row, which merges the shards of a read task into one block; here a block goes in and comes out;
- its chat-template step raises on the first row whose messages the template refuses, which would fail the job for
  one bad row, and takes an actor pool that nobody sizes;
- its engine step drops the finish reason, and cannot score a pair of texts.

So the pool is the processor's, and what an actor does with a batch is `EngineReplica`. It is asynchronous: a replica
works on several batches at a time, so that the tail of one does not leave the engine idle.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa

from llmbatch.api.job import Stage
from llmbatch.runtime.prompts import Renderer, Request, answers
from llmbatch.runtime.rows import RowError, StageOutput, with_results

CONCURRENT_BLOCKS = 2
"""Blocks a replica works on at a time: while the last rows of one are generated, the next one fills the engine.
Ray Data runs up to four batches of each block at a time, so `8 x batchSize` rows are in the engine."""


class AsyncEngine(Protocol):
    """One loaded model that answers requests as they come."""

    async def answer(self, request: Request) -> StageOutput | RowError:
        """Answer one request. An engine that died ends its process, and Ray starts another.

        Raises:
            SpecError: the engine died before it answered anything: another would as well.
        """
        ...


def add_engine_stage(dataset: Any, stage: Stage, batch_rows: int, bounds: tuple[int, int]) -> Any:
    """Return the dataset with one more stage, of engine vllm or sglang.

    Args:
        dataset: A Ray dataset whose blocks follow `rows.SCHEMA`.
        stage: The stage.
        batch_rows: Rows of a batch.
        bounds: Least and most replicas.
    """
    from ray.data import ActorPoolStrategy
    from ray.data.llm import build_processor

    from llmbatch.runtime.engines import sglang, vllm

    engines: dict[str, tuple[Callable[..., Any], Callable[..., AsyncEngine]]] = {
        "vllm": (vllm.processor_config, vllm.Vllm),
        "sglang": (sglang.processor_config, sglang.Sglang),
    }
    configure, engine = engines[stage.engine]
    processor = build_processor(configure(stage, batch_rows, bounds, CONCURRENT_BLOCKS))
    [name] = processor.list_stage_names()
    loaded = processor.get_stage_by_name(name)
    options = loaded.get_dataset_map_batches_kwargs(batch_rows, processor.DATA_COLUMN)
    load_arguments = options.pop("fn_constructor_kwargs")
    # Ray 2.64 takes the actor's concurrency from the strategy alone.
    least, most = bounds
    options["compute"] = ActorPoolStrategy(
        min_size=least, max_size=most, max_concurrent_calls_per_actor=options.pop("max_concurrency")
    )
    options |= {"num_cpus": stage.resources.cpus, "num_gpus": stage.resources.gpus}
    return dataset.map_batches(
        EngineReplica,
        fn_constructor_args=(stage, engine, loaded.fn, load_arguments),
        batch_format="pyarrow",
        **options,
    )


class BusyClock:
    """Divides a replica's time among the batches that are in it together, so that their shares add up to it."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        """Read the time, in seconds, from `now`."""
        self._now = now
        self._last = now()
        self._active = 0
        self._share = 0.0

    def enter(self) -> float:
        """Begin a batch; `leave` wants what this returns."""
        self._advance()
        self._active += 1
        return self._share

    def leave(self, entered: float) -> float:
        """End a batch and return its share of the replica's time, in seconds."""
        self._advance()
        self._active -= 1
        return self._share - entered

    def _advance(self) -> None:
        now = self._now()
        if self._active:
            self._share += (now - self._last) / self._active
        self._last = now


class EngineReplica:
    """One replica: an engine that `ray.data.llm` loaded, and the rows' way through it."""

    def __init__(
        self,
        stage: Stage,
        engine: Callable[[Stage, Any], AsyncEngine],
        load: Callable[..., Any],
        load_arguments: dict[str, Any],
    ) -> None:
        """Load the model.

        Args:
            stage: The stage.
            engine: Wraps what was loaded.
            load: The processor's own class, whose `llm` holds the engine and ends it with itself.
            load_arguments: What it is made with.
        """
        self._stage = stage
        self._renderer = Renderer(stage)
        self._loaded = load(**load_arguments)
        self._engine = engine(stage, self._loaded.llm.engine)
        self._clock = BusyClock()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer a batch: the same rows, each with this stage's output or an error."""
        asked = self._renderer.ask(batch)
        requests = [one for one in asked if isinstance(one, Request)]
        entered = self._clock.enter()
        try:
            results = await asyncio.gather(*map(self._engine.answer, requests))
        finally:
            share = self._clock.leave(entered)
        return with_results(batch, self._stage, answers(asked, results), share / max(1, len(asked)))
