"""What the monitor of an execution says once it was ended. No Ray is started."""

from types import SimpleNamespace
from typing import Any

from llmbatch.runtime.pools.watch import PoolMonitor


class Source:
    """The operator that reads: it calls itself finished as soon as it is cut off, as Ray's does."""

    def __init__(self) -> None:
        self.name = "read"
        self.metrics = SimpleNamespace(row_outputs_taken=90)
        self.cut_off = False
        self._map_transformer = SimpleNamespace(get_transform_fns=list)

    def has_execution_finished(self) -> bool:
        return self.cut_off

    def get_autoscaling_actor_pools(self) -> list[Any]:
        return []


class Executor:
    """Observes once more when it is shut down, as Ray's does."""

    def __init__(self, monitor: PoolMonitor) -> None:
        self.source = Source()
        self._topology = {Source(): None, self.source: None}
        self._monitor = monitor

    def shutdown(self, *, force: bool) -> None:
        assert force
        self.source.cut_off = True
        self._monitor.observe(self)


def test_rows_read_until_an_execution_was_ended_are_not_all_there_are() -> None:
    monitor = PoolMonitor()
    executor = Executor(monitor)
    monitor.begin(executor)
    monitor.observe(executor)
    monitor.end()
    assert executor.source.cut_off
    assert (monitor.latest().rows_read, monitor.latest().read_finished) == (90, False)


def test_an_execution_that_is_ended_while_it_is_looked_at_is_not_read_to_its_end() -> None:
    monitor = PoolMonitor()
    executor = Executor(monitor)
    monitor.begin(executor)
    monitor.observe(executor)

    def ended_meanwhile() -> bool:
        executor.source.has_execution_finished = lambda: True
        monitor.end()
        return True

    executor.source.has_execution_finished = ended_meanwhile
    monitor.observe(executor)
    assert not monitor.latest().read_finished
