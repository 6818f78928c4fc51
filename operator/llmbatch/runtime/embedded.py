"""Ray for one run: joined where the job's cluster is, or started in this process, alone or as nodes that come and go.

With a capacity trace every node of the trace is a raylet of its own with logical GPUs on this machine. A node that
leaves is killed without grace, as a preempted machine is; a notice, and the word that it is gone, reach the run through
`Desired`, as the controller's do.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from llmbatch.api.capacity import Capacity, DoomedWorker
from llmbatch.api.runspec import PRELOADED_MODULES
from llmbatch.core.capacity.trace import Trace
from llmbatch.errors import InternalError, RayStartError
from llmbatch.runtime.desired import Desired

LEAST_CPUS = 4
"""Ray's CPUs are a count, not cores: below this a chain of stages has no room beside its reads and commits."""
NODE_CPUS = 8
"""Logical CPUs of a traced node: replicas there are bound by its GPUs."""
NODE_STORE_BYTES = 100_000_000
"""Object store of a traced node: shards of text are small."""
DEAD_NODE_CONFIG = {
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
"""Ray takes about 13 s to notice a dead node by default; one that dies beside the trace should not be waited for that
long."""
TOLD_SECONDS = 60.0
"""How long the run is told of a node that is gone."""


@dataclass(frozen=True, slots=True)
class LocalCapacity:
    """Nodes that come and go with a trace."""

    trace: Trace
    notice_seconds: float | None = None
    """How long before a node leaves the run is told; None: never."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How this process runs Ray. Ignored where a Ray cluster is given."""

    address: str | None = None
    """Address of a running Ray cluster; None starts one in this process."""
    cpus: int | None = None
    """CPU cores the embedded Ray may hand out; None: the machine's, but at least `LEAST_CPUS`."""
    object_store_mb: int = 512
    """Object store of the embedded Ray, in MB."""
    capacity: LocalCapacity | None = None
    """Capacity that comes and goes; None: one node that stays."""


def most_gpus_of_a_node(options: RunOptions) -> int | None:
    """Return the GPUs of the largest node that this run can ever have, inside `embedded_ray`.

    None where a cluster is joined: its nodes come and go, and the controller checks a stage against them.
    """
    if options.address is not None:
        return None
    if options.capacity is not None:
        return options.capacity.trace.gpus_per_node
    import ray

    return max(int(node["Resources"].get("GPU", 0)) for node in ray.nodes())


def most_starting(options: RunOptions) -> int | None:
    """Return how many replicas may start at a time; None where nodes have their processors for themselves."""
    return None if options.capacity is None else max(2, os.cpu_count() or 1) + 1


class Step(NamedTuple):
    """One thing that happens to the nodes, at a second of the trace."""

    seconds: float
    kind: Literal["add", "notice", "remove"]
    node: str
    deadline: float
    """For a notice: the second of the trace at which the node leaves."""


def timeline(capacity: LocalCapacity) -> list[Step]:
    """Return what happens to the nodes, in order of time."""
    steps = []
    for stay in capacity.trace.lifetimes():
        steps.append(Step(stay.start, "add", stay.node, 0.0))
        if not stay.removed:
            continue
        steps.append(Step(stay.end, "remove", stay.node, 0.0))
        if capacity.notice_seconds is not None:
            told = max(stay.start, stay.end - capacity.notice_seconds)
            steps.append(Step(told, "notice", stay.node, stay.end))
    # What leaves makes room for what comes at the same second.
    order = {"remove": 0, "add": 1, "notice": 2}
    return sorted(steps, key=lambda step: (step.seconds, order[step.kind], step.node))


@contextmanager
def embedded_ray(options: RunOptions, desired: Desired, *, preload: bool = False) -> Iterator[None]:
    """Start Ray in this process, or join the cluster of `options.address`, for the time of a run.

    Args:
        options: How to run Ray.
        desired: Where notices of the trace go.
        preload: Let each of its processes import at its start what a replica needs, for GPUs that change their stage.

    Raises:
        RayStartError: Ray's processes did not come up, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # One process less to start before the first row; it would count for Ray's makers what is run.
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")
    if preload:
        os.environ.setdefault("RAY_preload_python_modules", ",".join(PRELOADED_MODULES))
    import ray.data

    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    with _cluster(options, desired) as (address, nodes):
        with _starting():
            ray.init(**quiet, **address)
        if nodes is not None:
            nodes.follow()
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _cluster(options: RunOptions, desired: Desired) -> Iterator[tuple[dict[str, Any], _Nodes | None]]:
    cpus = options.cpus or max(LEAST_CPUS, os.cpu_count() or 1)
    store = options.object_store_mb * 1_000_000
    if options.address is not None:
        yield {"address": options.address}, None
    elif options.capacity is None:
        # Without "local", Ray joins any cluster that happens to run on this machine, and refuses the rest.
        yield {"address": "local", "num_cpus": cpus, "object_store_memory": store, "include_dashboard": False}, None
    else:
        nodes = _Nodes(options.capacity, desired, cpus, store)
        try:
            with _starting():
                address = nodes.start()
            yield {"address": address}, nodes
        finally:
            nodes.stop()


@contextmanager
def _starting() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Ray raises what it likes
        raise RayStartError(f"Ray did not start on this machine: {error}") from error


class _Nodes:
    """A Ray cluster on this machine whose nodes follow a trace."""

    def __init__(self, capacity: LocalCapacity, desired: Desired, cpus: int, store_bytes: int) -> None:
        self._capacity = capacity
        self._desired = desired
        self._head = {"num_cpus": cpus, "num_gpus": 0, "object_store_memory": store_bytes, "include_dashboard": False}
        self._cluster: Any = None
        self._nodes: dict[str, Any] = {}
        self._doomed: dict[str, DoomedWorker] = {}
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True, name="capacity")

    def start(self) -> str:
        """Start the head and the nodes that are there at second 0; return the cluster's address."""
        from ray.cluster_utils import Cluster

        # Shutting down at exit rests on signal handlers, which a thread that adds nodes may not set.
        head = self._head | {"_system_config": DEAD_NODE_CONFIG}
        self._cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        self._steps = timeline(self._capacity)
        while self._steps and self._steps[0].seconds <= 0 and self._steps[0].kind == "add":
            self._take(self._steps.pop(0))
        return str(self._cluster.address)

    def follow(self) -> None:
        """Begin with second 0 of the trace."""
        self._began = time.time()
        self._thread.start()

    def stop(self) -> None:
        """End every process of the cluster.

        Raises:
            InternalError: the nodes did not follow the trace to here.
        """
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._cluster is not None:
            self._cluster.shutdown()
        if self._failure is not None:
            raise InternalError(f"the nodes do not follow the trace: {self._failure}") from self._failure

    def _follow(self) -> None:
        try:
            for step in self._steps:
                if self._ended.wait(max(0.0, self._began + step.seconds - time.time())):
                    return
                self._take(step)
        except Exception as error:  # noqa: BLE001 - Ray's test cluster raises what it likes; `stop` says it
            self._failure = error

    def _take(self, step: Step) -> None:
        if step.kind == "add":
            self._nodes[step.node] = self._cluster.add_node(
                num_gpus=self._capacity.trace.gpus_per_node,
                num_cpus=NODE_CPUS,
                object_store_memory=NODE_STORE_BYTES,
                wait=False,
            )
        elif step.kind == "notice":
            self._doom(step.node, self._nodes[step.node].node_id, "reclaim", self._began + step.deadline)
        else:
            node = self._nodes.pop(step.node)
            self._cluster.remove_node(node, allow_graceful=False)
            self._doom(step.node, node.node_id, "lost", time.time())

    def _doom(self, name: str, node_id: str, kind: Literal["reclaim", "lost"], deadline: float) -> None:
        self._doomed[name] = DoomedWorker(worker=name, ray_node_id=node_id, kind=kind, deadline=deadline)
        past = time.time() - TOLD_SECONDS
        self._doomed = {
            other: worker
            for other, worker in self._doomed.items()
            if worker.kind != "lost" or (worker.deadline or 0.0) > past
        }
        now = self._desired.latest()
        self._desired.offer(Capacity(sequence=now.sequence + 1, doomed=tuple(self._doomed.values()), pause=now.pause))
