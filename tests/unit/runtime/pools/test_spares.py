"""Which node is asked for a spare process, and when."""

from llmbatch.runtime.pools.nodes import RayNode
from llmbatch.runtime.pools.spares import Spares


class Asked(Spares):
    """Notes who is asked instead of asking."""

    def __init__(self, pause_seconds: float = 0.0) -> None:
        super().__init__(pause_seconds)
        self.nodes: list[str] = []

    def _ask(self, node: RayNode) -> None:
        self.nodes.append(node.id)
        self._with_spare.add(node.id)


def node(name: str, gpus: int = 1) -> RayNode:
    return RayNode(name, "10.0.0.1", 1, name, gpus, 8.0, None, draining=False)


def test_each_node_with_gpus_gets_one_and_none_while_a_replica_starts() -> None:
    spares, nodes = Asked(), [node("head", 0), node("a"), node("b")]
    spares.tend(nodes, {}, calm=False, now=0.0)
    assert spares.nodes == []
    for _ in range(4):
        spares.tend(nodes, {"r1": "a"}, calm=True, now=0.0)
    assert spares.nodes == ["a", "b"]


def test_a_new_replica_takes_the_spare_of_its_node() -> None:
    spares, nodes = Asked(), [node("a"), node("b")]
    for _ in range(3):
        spares.tend(nodes, {"r1": "a"}, calm=True, now=0.0)
    spares.tend(nodes, {"r1": "a", "r2": "b"}, calm=True, now=0.0)
    spares.tend(nodes, {"r1": "a", "r2": "b"}, calm=True, now=0.0)
    assert spares.nodes == ["a", "b", "b"]


def test_a_node_that_is_gone_is_forgotten() -> None:
    spares = Asked()
    spares.tend([node("a")], {}, calm=True, now=0.0)
    spares.tend([], {}, calm=True, now=0.0)
    spares.tend([node("a")], {}, calm=True, now=0.0)
    assert spares.nodes == ["a", "a"]


class Channel:
    """A connection to a raylet."""

    closed = False

    def close(self) -> None:
        self.closed = True


def test_the_connection_to_a_node_that_is_gone_is_closed_though_its_spare_was_taken() -> None:
    spares, channel = Asked(), Channel()
    spares._channels["a"] = channel
    spares.tend([node("a")], {}, calm=True, now=0.0)
    spares.tend([node("a")], {"r1": "a"}, calm=False, now=0.0)
    assert not channel.closed
    spares.tend([], {}, calm=True, now=0.0)
    assert channel.closed


def test_spares_on_shared_processors_come_one_after_the_other() -> None:
    spares, nodes = Asked(pause_seconds=8.0), [node("a"), node("b")]
    for now in (100.0, 107.0, 108.0):
        spares.tend(nodes, {}, calm=True, now=now)
        assert len(spares.nodes) == (1 if now < 108.0 else 2)
