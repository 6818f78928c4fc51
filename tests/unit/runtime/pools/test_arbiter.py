"""What the arbiter makes of the pools from tick to tick; pools and nodes are stood in for."""

from collections.abc import Collection

import pytest

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.runtime.desired import Desired
from llmbatch.runtime.pools import arbiter
from llmbatch.runtime.pools.actors import PoolSample, Replica
from llmbatch.runtime.pools.arbiter import Arbiter
from llmbatch.runtime.pools.nodes import RayNode

NOW = 1_000.0


class Pool:
    """A pool that keeps its replicas busy until they retire: they took so many seconds for 320 rows."""

    def __init__(self, busy_seconds: float, **nodes: str) -> None:
        self.busy_seconds = busy_seconds
        self.nodes = nodes
        self.retiring: frozenset[str] = frozenset()
        self.started = 0

    def leave(self, name: str) -> None:
        """End what a retiring one had in work."""
        assert name in self.retiring
        del self.nodes[name]

    def sample(self) -> PoolSample:
        busy = 64 * len(self.nodes)
        return PoolSample(len(self.nodes), 0, 0, 0, 5_000, busy, 320, self.busy_seconds, 3.0)

    def replicas(self) -> list[Replica]:
        return [
            Replica(name, node, pending=False, restarting=False, retiring=name in self.retiring, tasks=2, age_seconds=9)
            for name, node in self.nodes.items()
        ]

    def retire(self, ids: Collection[str]) -> None:
        self.retiring = frozenset(ids)

    def grow(self, count: int, reason: str) -> None:
        self.started += count

    def cancel(self, ids: Collection[str]) -> None: ...

    def bundle(self, rows: int) -> None: ...

    def rows_per_task(self) -> float:
        return 32.0

    def row_bytes(self) -> float:
        return 100.0

    def task_seconds(self) -> list[float]:
        return [10.0]

    def load_seconds(self) -> list[float]:
        return [3.0]

    def tasks_in_turn(self) -> int:
        return 2

    def nodes_that_took_work_along(self) -> frozenset[str]:
        return frozenset()

    def inputs_done(self) -> bool:
        return False

    def done(self) -> bool:
        return False


class World:
    """Two nodes, a stage of small replicas and one of a gang that fills a node; maybe a stage before them."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, small: Pool, smalls: int, gpus: int, first: Pool | None = None
    ) -> None:
        chain = [_stage("small", 1, smalls), _stage("gang", gpus, 1)]
        spec = LLMBatchJobSpec.model_validate(
            {
                "input": {"uri": "in", "format": "jsonl"},
                "output": {"uri": "out"},
                "stages": chain if first is None else [_stage("first", 1, 1), *chain],
            }
        )
        self.small, self.gang = small, Pool(100.0)
        self.nodes = [_node("n0", gpus), _node("n1", gpus)]
        monkeypatch.setattr(arbiter, "live_nodes", lambda: self.nodes)
        self.arbiter = Arbiter(spec, "balanced", Desired())
        pools = (self.small, self.gang) if first is None else (first, self.small, self.gang)
        monkeypatch.setattr(self.arbiter, "_pools", pools)
        monkeypatch.setattr(self.arbiter, "_tend_spares", lambda nodes: None)  # they are Ray's actors

    def tick(self) -> None:
        self.arbiter._tick(NOW)


def _node(name: str, gpus: int) -> RayNode:
    return RayNode(name, "ip", 1, "host", float(gpus), 16.0, None, False)


def _stage(name: str, gpus: int, most: int) -> dict[str, object]:
    return {
        "name": name,
        "engine": "simulated",
        "prompt": {"user": "{{ t }}"},
        "replicas": {"max": most},
        "resources": {"gpus": gpus},
        "simulation": {"secondsPerRow": 0.3},
    }


def test_a_busy_replica_that_makes_room_for_a_gang_is_given_no_more_work(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, Pool(100.0, a="n0", b="n1"), smalls=2, gpus=2)
    for _ in range(9):
        world.tick()
        assert world.small.retiring == {"a"}
    world.small.leave("a")
    world.tick()
    assert world.gang.started == 1


def test_the_room_that_is_made_for_a_gang_goes_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, Pool(400.0, a="n0", b="n0", c="n1", d="n1"), smalls=4, gpus=4)
    world.tick()
    assert world.small.retiring == {"a", "b"}
    world.small.leave("a")
    world.tick()
    assert (world.small.retiring, world.small.started) == ({"b"}, 0)
    world.small.leave("b")
    world.tick()
    assert (world.small.started, world.gang.started) == (0, 1)
    world.gang.nodes = {"gang": "n0"}
    world.tick()
    assert (world.small.started, world.small.retiring) == (2, frozenset())


def test_a_replica_serves_on_where_its_place_is_not_wanted_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, Pool(100.0, a="n0", b="n1"), smalls=2, gpus=2)
    world.tick()
    world.nodes.append(_node("n2", 2))
    world.tick()
    assert world.gang.started == 1
    world.gang.nodes = {"gang": "n2"}
    world.tick()
    assert world.small.retiring == frozenset()


def test_a_stage_without_a_replica_does_not_wait_for_the_room_of_a_gang(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Pool(10.0, only="n2")
    world = World(monkeypatch, Pool(100.0, a="n0", b="n1"), smalls=2, gpus=2, first=first)
    world.nodes += [_node("n2", 1), _node("n3", 1)]
    world.tick()
    assert world.small.retiring == {"a"}
    del world.nodes[2], first.nodes["only"]
    world.tick()
    assert (first.started, world.small.retiring) == (1, {"a"})
