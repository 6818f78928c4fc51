"""Where the arbiter starts replicas: only where Ray will find a GPU at once."""

from dataclasses import replace

from llmbatch.core.stages.model import CapacityView, Estimate, NodeView, PoolView, ReplicaView, Target
from llmbatch.runtime.pools.room import Room, missing_replicas

ONE = Estimate(1.0)


def pool(*replicas: ReplicaView, gpus: int = 1, accelerator: str = "") -> PoolView:
    return PoolView("s", 1, 99, ONE, ONE, ONE, gpus=gpus, accelerator=accelerator, replicas=replicas)


def started(room: Room, of: PoolView) -> int:
    count = 0
    while room.take(of):
        count += 1
    return count


def test_a_replica_that_starts_again_keeps_its_place() -> None:
    nodes = CapacityView([NodeView("a", 1), NodeView("b", 1), NodeView("c", 1)])
    held = pool(ReplicaView("r0", "a"), ReplicaView("r1", "lost", "restarting", in_flight_rows=16))
    assert started(Room([held], nodes), held) == 1


def test_a_retiring_replica_holds_its_gpu_until_it_is_gone() -> None:
    nodes = CapacityView([NodeView("a", 1)])
    assert started(Room([pool(ReplicaView("r0", "a", "retiring"))], nodes), pool()) == 0


def test_nothing_starts_on_a_node_that_goes_or_beyond_what_was_granted() -> None:
    nodes = [NodeView("a", 2), NodeView("b", 4, deadline=9.0)]
    assert started(Room([pool()], CapacityView(nodes)), pool()) == 2
    assert started(Room([pool()], CapacityView(nodes, gpus_granted=1)), pool()) == 1


def test_a_gang_waits_for_one_node_and_its_accelerator() -> None:
    nodes = CapacityView([NodeView("a", 2, accelerator="L4"), NodeView("b", 4, accelerator="H100")])
    single = pool(ReplicaView("r0", "a"), ReplicaView("r1", "b"))
    assert started(Room([single], nodes), pool(gpus=2)) == 1
    assert started(Room([single], nodes), pool(gpus=1, accelerator="L4")) == 1


def test_the_stage_that_lacks_most_of_its_share_is_first() -> None:
    nodes = CapacityView([NodeView("a", 8)])
    pools = [pool(ReplicaView("r0", "a")), pool()]
    order = list(missing_replicas(pools, nodes, [Target("s", 2), Target("s", 2)]))
    assert order == [1, 0, 1]


def test_of_stages_that_lack_as_much_the_one_with_rows_is_first_then_the_one_near_the_source() -> None:
    nodes = CapacityView([NodeView("a", 8)])
    waiting = replace(pool(), queued_rows=16)
    assert list(missing_replicas([pool(), pool(), waiting], nodes, [Target("s", 1)] * 3)) == [2, 0, 1]


def test_a_replica_that_is_wanted_again_counts() -> None:
    nodes = CapacityView([NodeView("a", 8)])
    back = pool(ReplicaView("r0", "a", "retiring"))
    assert list(missing_replicas([back], nodes, [Target("s", 1)])) == []
    assert list(missing_replicas([back], nodes, [Target("s", 1, frozenset({"r0"}))])) == [0]


def test_a_small_replica_moves_where_a_gang_finds_its_gpus_on_two_nodes() -> None:
    nodes = CapacityView([NodeView("a", 2), NodeView("b", 2)])
    small = pool(ReplicaView("busy", "a", in_flight_rows=32), ReplicaView("calm", "b", in_flight_rows=16))
    room, gang = Room([small], nodes), pool(gpus=2)
    assert not room.take(gang)
    assert room.in_the_way(gang, [small, gang]) == {"calm"}


def test_nobody_moves_for_nothing() -> None:
    nodes = CapacityView([NodeView("a", 2), NodeView("b", 1)])
    full = pool(ReplicaView("r0", "a"), ReplicaView("r1", "b"))
    gang = pool(gpus=2)
    assert Room([full], nodes).in_the_way(gang, [full, gang]) == frozenset()
    going = pool(ReplicaView("r0", "a"), ReplicaView("r1", "b", "retiring"))
    two = CapacityView([NodeView("a", 2), NodeView("b", 2)])
    assert Room([going], two).in_the_way(gang, [going, gang]) == frozenset()
