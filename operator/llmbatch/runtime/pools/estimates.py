"""What a stage's replicas take: believed at first, measured as soon as there is something to measure."""

from __future__ import annotations

from llmbatch.api.job import Stage
from llmbatch.core.stages.delays import PROCESS_START_SECONDS
from llmbatch.core.stages.model import Estimate
from llmbatch.runtime.pools.actors import PoolSample, StagePool

DEFAULT_SERVICE_SECONDS = 0.1
"""GPU-seconds a row of a model nobody has measured here; only its ratio to the other stages' matters."""
DEFAULT_LOAD_SECONDS = 60.0
"""A model of 7 to 8 billion parameters from a local disk into vLLM, without compilation."""
LEAST_SERVICE_SECONDS = 1e-6
"""A stage that costs nothing still counts as one."""


class StageEstimates:
    """Service, load and drain time of one stage, kept up to date."""

    def __init__(self, stage: Stage) -> None:
        """Start with what the spec says, or with the defaults."""
        self._gpus = max(1, stage.resources.gpus)
        self._rows = 0
        self._busy = 0.0
        self._loads = 0
        simulated = stage.engine == "simulated"
        seconds = stage.simulation.seconds_per_row if simulated else DEFAULT_SERVICE_SECONDS
        load = stage.simulation.load_seconds if simulated else DEFAULT_LOAD_SECONDS
        self.service = Estimate(max(seconds * self._gpus, LEAST_SERVICE_SECONDS))
        """GPU-seconds a row; replica-seconds where a replica has no GPU."""
        self.load = Estimate(load + PROCESS_START_SECONDS)
        """Seconds from the start of a replica until it takes rows."""
        self.bound_seconds = Estimate(seconds * stage.batch_size)
        """Seconds in which a replica ends what is bound to it, at the 95th percentile."""

    def update(self, pool: StagePool, sample: PoolSample) -> None:
        """Take in what finished since the last update."""
        rows, busy = sample.rows_completed - self._rows, sample.busy_seconds - self._busy
        if rows > 0 and busy > 0:
            self.service = self.service.update(max(busy * self._gpus / rows, LEAST_SERVICE_SECONDS))
            self._rows, self._busy = sample.rows_completed, sample.busy_seconds
        loads = pool.load_seconds()
        for seconds in loads[self._loads :]:
            self.load = self.load.update(seconds)
        self._loads = len(loads)
        tasks = sorted(pool.task_seconds())
        if tasks:
            p95 = tasks[min(len(tasks) - 1, int(0.95 * len(tasks)))]
            self.bound_seconds = Estimate(p95 * pool.tasks_in_turn(), len(tasks))
