"""A stage of the pipeline: an actor pool whose replicas turn rows into rows with one more output."""

from __future__ import annotations

import gc
import time
from typing import Any

import pyarrow as pa

from llmbatch.api.job import LLMBatchJobSpec, Stage
from llmbatch.errors import InternalError
from llmbatch.runtime.engines.base import Engine
from llmbatch.runtime.engines.processor import add_engine_stage
from llmbatch.runtime.engines.simulated import Simulated
from llmbatch.runtime.prompts import Renderer, Request, answers
from llmbatch.runtime.rows import with_results


def make_engine(stage: Stage) -> Engine:
    """Load an engine that a `Replica` holds; vllm and sglang are `engines.processor`'s."""
    if stage.engine == "simulated":
        return Simulated(stage)
    # A second of imports that no other replica should wait for.
    from llmbatch.runtime.engines.http import Http

    return Http(stage)


class Replica:
    """One replica of a stage of engine simulated or openai, as Ray Data's actor pools want it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._renderer = Renderer(stage)
        self._engine = make_engine(stage)
        # What is loaded by now stays. The objects of each batch would have the collector look through all of it again.
        gc.collect()
        gc.freeze()

    def __call__(self, shard: pa.Table) -> pa.Table:
        """Answer a shard, batch by batch: the same rows, each with this stage's output or an error.

        Raises:
            InternalError: the engine returned another number of results than it was asked.
        """
        size = self._stage.batch_size
        answered = [self._answer(shard[start : start + size]) for start in range(0, max(1, len(shard)), size)]
        # In one piece: to pass a table on, Ray serializes each chunk of each column by itself.
        return pa.concat_tables(answered).combine_chunks()

    def _answer(self, batch: pa.Table) -> pa.Table:
        started = time.perf_counter()
        asked = self._renderer.ask(batch)
        requests = [one for one in asked if isinstance(one, Request)]
        results = self._engine.run(requests) if requests else []
        if len(results) != len(requests):
            raise InternalError(f"stage {self._stage.name}: {len(results)} results for {len(requests)} requests")
        made = answers(asked, results)
        seconds = (time.perf_counter() - started) / max(1, len(asked))
        return with_results(batch, self._stage, made, seconds)


def apply_stage(dataset: Any, stage: Stage, spec: LLMBatchJobSpec, bounds: tuple[int, int]) -> Any:
    """Return the dataset with one more stage.

    Args:
        dataset: A Ray dataset whose blocks follow `rows.SCHEMA`.
        stage: The stage.
        spec: The job's spec.
        bounds: Least and most replicas.
    """
    import ray

    if stage.engine in ("vllm", "sglang"):
        return add_engine_stage(dataset, stage, min(stage.batch_size, spec.shard_rows), bounds)
    least, most = bounds
    options: dict[str, Any] = {"num_cpus": stage.resources.cpus}
    if stage.resources.gpus:
        options["num_gpus"] = stage.resources.gpus
    if stage.resources.accelerator is not None:
        options["accelerator_type"] = stage.resources.accelerator
    return dataset.map_batches(
        Replica,
        fn_constructor_args=(stage,),
        # A whole shard. Without a size, Ray may fuse the read into the stage.
        batch_size=spec.shard_rows,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
        **options,
    )
