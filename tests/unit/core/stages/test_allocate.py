"""Which stage gets which GPU: what must hold for any chain on any nodes."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.core.stages.allocate import allocate
from llmbatch.core.stages.demand import demands, fluid
from llmbatch.core.stages.drain import drains_now, earliest
from llmbatch.core.stages.model import (
    Allocation,
    AllocationOptions,
    CapacityView,
    Estimate,
    NodeView,
    PoolView,
    ReplicaView,
)

NOW = 1_000.0
BALANCED = AllocationOptions()
RESERVATION = AllocationOptions(policy="rayReservation")


def pool(service: float, *, load: float = 30.0, **more: object) -> PoolView:
    plain = PoolView("stage", 1, 1_000, Estimate(service, 1), Estimate(load, 1), Estimate(service, 1), cpus=0.0)
    return replace(plain, batch_rows=16, **more)  # type: ignore[arg-type]


def nodes(count: int, gpus: int = 1) -> CapacityView:
    return CapacityView([NodeView(f"n{number}", gpus) for number in range(count)])


def counts(allocation: Allocation) -> list[int]:
    return [target.replicas for target in allocation.targets]


unhurried = settings(deadline=None)
services = st.lists(st.floats(0.05, 20.0), min_size=1, max_size=8)


@unhurried
@given(services, st.integers(0, 64), st.sampled_from([BALANCED, RESERVATION]))
def test_no_more_gpus_are_given_than_there_are(work: list[float], gpus: int, options: AllocationOptions) -> None:
    pools = [pool(service, queued_rows=100) for service in work]
    assert sum(counts(allocate(pools, nodes(gpus), NOW, options))) <= gpus


@unhurried
@given(services, st.integers(1, 64))
def test_with_few_gpus_someone_always_works(work: list[float], gpus: int) -> None:
    pools = [pool(service) for service in work]
    assert sum(counts(allocate(pools, nodes(gpus), NOW, BALANCED))) >= 1


@unhurried
@given(services, st.integers(0, 30))
def test_every_stage_of_a_short_rest_has_a_replica_when_gpus_suffice(work: list[float], spare: int) -> None:
    pools = [pool(service, queued_rows=10_000, upstream_done=True) for service in work]
    assert min(counts(allocate(pools, nodes(len(work) + spare), NOW, BALANCED))) >= 1


def placed(pools: list[PoolView], found: list[int]) -> list[PoolView]:
    names = iter(range(10_000))
    return [
        replace(one, replicas=[ReplicaView(f"r{n}", f"n{n}", age_seconds=99) for n, _ in zip(names, range(count))])  # noqa: B905
        for one, count in zip(pools, found, strict=True)
    ]


@unhurried
@given(services, st.integers(1, 64))
def test_what_was_decided_stays_decided(work: list[float], gpus: int) -> None:
    pools = [pool(service, queued_rows=500) for service in work]
    first = counts(allocate(pools, nodes(gpus), NOW, BALANCED))
    again = allocate(placed(pools, first), nodes(gpus), NOW, BALANCED)
    assert counts(again) == first
    assert not any(target.retire for target in again.targets)


def test_the_slowest_stage_gets_most() -> None:
    assert counts(allocate([pool(2), pool(6), pool(1)], nodes(36), NOW, BALANCED)) == [8, 24, 4]


def test_a_little_more_speed_is_not_worth_a_switch() -> None:
    held = placed([pool(1.0), pool(1.04)], [12, 12])
    assert counts(allocate(held, nodes(24), NOW, BALANCED)) == [12, 12]


def test_gpus_on_their_way_hold_up_no_switch_but_at_the_end() -> None:
    """They may not come for hours; near the end the loads would not pay."""
    held = placed([pool(1), pool(1)], [18, 6])
    arriving = replace(nodes(24), gpus_arriving=12)
    assert counts(allocate(held, arriving, NOW, BALANCED)) == [12, 12]
    rest = [replace(one, upstream_done=True, in_flight_rows=1_000) for one in held]
    assert counts(allocate(rest, arriving, NOW, BALANCED)) == [18, 6]


@unhurried
@given(services, st.data())
def test_no_stage_is_without_a_replica_when_gpus_suffice(work: list[float], data: st.DataObject) -> None:
    """Early on, when turns cannot have paid yet."""
    gpus = data.draw(st.integers(len(work), 64))
    held = data.draw(st.lists(st.integers(0, 9), min_size=len(work), max_size=len(work)))
    queues = data.draw(st.lists(st.integers(0, 2_000), min_size=len(work), max_size=len(work)))
    pools = placed([pool(each, queued_rows=rows) for each, rows in zip(work, queues, strict=True)], held)
    assert min(counts(allocate(pools, nodes(gpus), NOW, BALANCED))) >= 1


@unhurried
@given(services, st.data())
def test_without_its_replica_a_stage_waits_only_where_the_chain_gains(work: list[float], data: st.DataObject) -> None:
    gpus = data.draw(st.integers(len(work), 64))
    pools = [pool(each, queued_rows=500, finished_rows=10**7) for each in work]
    found = counts(allocate(pools, nodes(gpus), NOW, BALANCED))
    if not min(found):
        whole = min(count / each for count, each in zip(split(gpus, work), work, strict=True))
        assert gpus / sum(work) > 1.2 * whole


def split(gpus: int, work: list[float]) -> list[int]:
    found = [0] * len(work)
    for _ in range(gpus):
        found[min(range(len(work)), key=lambda index: found[index] / work[index])] += 1
    return found


@unhurried
@given(services, st.integers(1, 64), st.integers(0, 10**7), st.data())
def test_every_stage_has_its_whole_share_and_at_most_one_more(
    work: list[float], gpus: int, done: int, data: st.DataObject
) -> None:
    queues = data.draw(st.lists(st.integers(0, 2_000), min_size=len(work), max_size=len(work)))
    pools = [pool(each, queued_rows=rows, finished_rows=done) for each, rows in zip(work, queues, strict=True)]
    found = counts(allocate(pools, nodes(gpus), NOW, BALANCED))
    served = fluid(demands(pools), gpus, [1] * len(work)) if gpus >= len(work) else [0.0] * len(work)
    free = fluid(demands(pools), gpus)
    for count, with_floor, without in zip(found, served, free, strict=True):
        assert min(with_floor, without) - 1 - 1e-6 < count < max(with_floor, without) + 1 + 1e-6


@unhurried
@given(services, st.integers(1, 3), st.integers(1, 40))
def test_wide_replicas_are_placed_whole(work: list[float], wide: int, count: int) -> None:
    pools = [pool(each, gpus=wide) for each in work]
    found = counts(allocate(pools, nodes(count, gpus=4), NOW, BALANCED))
    assert sum(found) <= count * (4 // wide)
    if count * (4 // wide) >= len(work):
        assert min(found) >= 1


def test_a_stage_has_its_minimum() -> None:
    assert counts(allocate([pool(1, min_replicas=5), pool(9)], nodes(12), NOW, BALANCED)) == [5, 7]


def test_one_gpu_goes_round_three_stages() -> None:
    pools = [pool(1), pool(3), pool(0.5)]
    assert counts(allocate(pools, nodes(1), NOW, BALANCED)) == [1, 0, 0]
    pools[0] = placed([pools[0]], [1])[0]
    pools[1] = replace(pools[1], queued_rows=10_000)
    assert counts(allocate(pools, nodes(1), NOW, BALANCED)) == [0, 1, 0]
    pools = [pool(1), *placed([replace(pools[1], queued_rows=0)], [1]), pools[2]]
    pools[2] = replace(pools[2], queued_rows=10_000)
    assert counts(allocate(pools, nodes(1), NOW, BALANCED)) == [0, 0, 1]


def test_a_turn_lasts_until_the_input_is_empty() -> None:
    [held] = placed([pool(3, queued_rows=1, in_flight_rows=16)], [1])
    assert counts(allocate([pool(1), held], nodes(1), NOW, BALANCED)) == [0, 1]


def test_whoever_idles_makes_way_for_the_last_rows() -> None:
    """They are too few to be worth a load, but nobody else has any."""
    first = pool(0.1, queued_rows=32, upstream_done=True)
    [last] = placed([pool(0.1)], [1])
    assert counts(allocate([first, pool(0.1), last], nodes(1), NOW, BALANCED)) == [1, 0, 0]


@unhurried
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.booleans(), st.data())
def test_somebody_who_can_work_has_a_replica_as_long_as_rows_wait(
    sizes: list[int], finite: bool, data: st.DataObject
) -> None:
    types = st.sampled_from(["T4", "H100"])
    held = st.integers(0, len(sizes) - 1).map(lambda node: [ReplicaView(f"r{node}", f"n{node}")])
    stage = st.builds(
        pool,
        st.floats(0.05, 20.0),
        gpus=st.integers(1, 4),
        accelerator=st.one_of(st.just(""), types),
        queued_rows=st.sampled_from([0, 0, 16, 160, 1_000, 5_000]),
        replicas=st.one_of(st.just([]), held),
        finished_rows=st.integers(0, 10**6),
    )
    chain = [replace(one, upstream_done=finite) for one in data.draw(st.lists(stage, min_size=1, max_size=5))]
    there = CapacityView([NodeView(f"n{n}", gpus, accelerator=data.draw(types)) for n, gpus in enumerate(sizes)])
    decided = allocate(chain, there, NOW, BALANCED)
    waiting = [one.queued_rows for one in chain]
    if not finite:
        waiting[0] = 5_000
    room = [*(rows < BALANCED.buffer_rows for rows in waiting[1:]), True]
    able = [bool(rows) and free for rows, free in zip(waiting, room, strict=True)]
    working = [count for count, can in zip(counts(decided), able, strict=True) if can and count]
    assert working or not any(able) or decided.stall_reason


def test_a_gang_fits_one_node() -> None:
    wide = pool(4, gpus=4, queued_rows=100)
    assert counts(allocate([pool(1), wide], nodes(8, gpus=2), NOW, BALANCED))[1] == 0
    assert "4 GPUs on one node" in allocate([pool(1), wide], nodes(8, gpus=2), NOW, BALANCED).stall_reason
    assert counts(allocate([pool(1), wide], nodes(3, gpus=4), NOW, BALANCED))[1] >= 1


@pytest.mark.parametrize(
    ("gpus", "cpus", "reason"),
    [
        pytest.param(1, 8.0, "", id="it fits"),
        pytest.param(1, 9.0, "1 H100 GPU and 9 CPUs on one node", id="cores of another node's"),
        pytest.param(3, 9.0, "3 H100 GPUs on one node", id="neither"),
        pytest.param(0, 32.0, "", id="no GPU"),
        pytest.param(0, 33.0, "33 CPUs on one node", id="no GPU, cores of two nodes"),
    ],
)
def test_a_replica_whose_cores_no_node_has_is_a_reason_to_stall(gpus: int, cpus: float, reason: str) -> None:
    chain = [pool(1, gpus=gpus, cpus=cpus, accelerator="H100" if gpus else "")]
    there = [
        NodeView("n0", 2, 8.0, "H100"),
        NodeView("n1", 2, 32.0, "T4"),
        NodeView("n2", 2, 64.0, "H100", deadline=NOW + 60),
    ]
    stall = allocate(chain, CapacityView(there), NOW, BALANCED).stall_reason
    assert stall == (f"stage stage needs {reason}, and no node that stays has it" if reason else "")


def test_accelerators_are_kept_apart() -> None:
    chain = [pool(1, accelerator="T4"), pool(1, accelerator="H100")]
    mixed = CapacityView([NodeView("a", 4, accelerator="T4"), NodeView("b", 2, accelerator="H100")])
    assert counts(allocate(chain, mixed, NOW, BALANCED))[1] <= 2


def test_stages_take_turns_on_the_one_gpu_that_suits_both() -> None:
    """There are GPUs for all, but of another kind."""
    mixed = CapacityView([NodeView("n0", 1, accelerator="H100"), NodeView("n1", 5, accelerator="T4")])
    chain = [pool(1, accelerator="H100"), pool(1, accelerator="H100"), pool(1, accelerator="T4")]
    assert counts(allocate(chain, mixed, NOW, BALANCED))[:2] == [1, 0]
    [first] = placed(chain[:1], [1])
    assert counts(allocate([first, replace(chain[1], queued_rows=5_000), chain[2]], mixed, NOW, BALANCED))[:2] == [0, 1]


def test_a_finished_stage_gives_its_gpus_away() -> None:
    pools = [
        pool(1, done=True, upstream_done=True),
        pool(1, queued_rows=320, upstream_done=True),
        pool(1, upstream_done=True),
    ]
    found = counts(allocate(pools, nodes(8), NOW, BALANCED))
    assert found[0] == 0
    assert found[1] >= 4


def test_no_gpu_is_asked_for_that_the_tail_cannot_use() -> None:
    rest = [pool(1, queued_rows=32, upstream_done=True)]
    assert allocate(rest, nodes(50), NOW, BALANCED).useful_gpus == 2
    capped = [pool(1, max_replicas=2), pool(3)]
    assert allocate(capped, nodes(50), NOW, BALANCED).useful_gpus == 8


def test_nothing_starts_on_a_node_that_goes_and_what_runs_there_drains_late() -> None:
    [held] = placed([pool(10.0)], [1])
    going = CapacityView([NodeView("n0", 1, deadline=NOW + 60), NodeView("other", 1)])
    early = allocate([held], going, NOW, BALANCED)
    assert (counts(early), early.targets[0].retire) == ([1], frozenset())
    assert allocate([held], going, NOW + 49, BALANCED).targets[0].retire == {"r0"}


def test_rows_bound_to_a_replica_that_starts_again_go_first() -> None:
    stuck = replace(pool(1), replicas=[ReplicaView("s", None, "restarting", in_flight_rows=16)], in_flight_rows=16)
    found = counts(allocate([pool(1), pool(1), stuck], nodes(1), NOW, BALANCED))
    assert found == [0, 0, 1]


@pytest.mark.parametrize(("now", "drains"), [(87.9, False), (88.1, True), (200, True)])
def test_dispatch_ends_a_batch_and_a_margin_before_the_deadline(now: float, *, drains: bool) -> None:
    assert drains_now(now, 100.0, 10.0, 2.0) is drains
    assert not drains_now(now, None, 10.0, 2.0)


def test_the_earliest_notice_counts_and_a_withdrawn_one_does_not() -> None:
    assert earliest([None, 30.0, 20.0]) == 20.0
    assert earliest([None]) is None


@unhurried
@given(services, st.integers(3, 40))
def test_the_reservation_starves_nobody_when_gpus_suffice(work: list[float], spare: int) -> None:
    pools = [pool(service, queued_rows=100) for service in work]
    assert min(counts(allocate(pools, nodes(len(work) + spare), NOW, RESERVATION))) >= 1


def test_the_reason_is_told() -> None:
    found = allocate([pool(1), pool(3)], nodes(8), NOW, BALANCED)
    assert found.targets[1].explanation == "6 of 8 GPUs: its share of the work (3 s a row)"


def test_who_retires_goes_on_retiring_until_it_is_wanted_again() -> None:
    replicas = [ReplicaView("old", "n0", in_flight_rows=16, age_seconds=90), ReplicaView("new", "n1", age_seconds=1)]
    chain = [pool(1, replicas=replicas, queued_rows=99, upstream_done=True, max_replicas=1)]
    [first] = allocate(chain, nodes(2), NOW, BALANCED).targets
    assert first.retire == {"new"}
    # The one that goes is given work in no tick between; now it has more in work than the other.
    going = [replace(replicas[0], in_flight_rows=0), replace(replicas[1], state="retiring", in_flight_rows=16)]
    [second] = allocate([replace(chain[0], replicas=going)], nodes(2), NOW, BALANCED).targets
    assert second.retire == {"new"}
    [third] = allocate([replace(chain[0], replicas=going, max_replicas=2)], nodes(2), NOW, BALANCED).targets
    assert (third.replicas, third.retire) == (2, frozenset())


@unhurried
@given(services, st.integers(1, 64), st.sampled_from([BALANCED, RESERVATION]))
def test_a_closed_stage_has_nobody_and_leaves_its_gpus_to_the_rest(
    work: list[float], gpus: int, options: AllocationOptions
) -> None:
    pools = [pool(service, queued_rows=5_000) for service in [1.0, *work]]
    alone = allocate(
        [one.closed() if index == 0 else one for index, one in enumerate(pools)], nodes(gpus), NOW, options
    )
    assert counts(alone)[0] == 0
    assert sum(counts(alone)) == gpus


def test_replicas_of_a_closed_stage_end_what_they_have_wherever_they_are() -> None:
    replicas = [
        ReplicaView("a", "stays", in_flight_rows=16),
        ReplicaView("b", "goes"),
        ReplicaView("c", None, "loading"),
    ]
    first = pool(1.0, replicas=replicas, queued_rows=5_000, in_flight_rows=16)
    capacity = CapacityView([NodeView("stays", 1), NodeView("goes", 1, deadline=NOW + 3_600)])
    closed, second = allocate([first.closed(), pool(1.0)], capacity, NOW, BALANCED).targets
    assert closed.retire == {"a", "b", "c"}
    assert second.replicas == 1, "for the rows that are in the first"
