"""How many spot and on-demand workers are asked for: cases a user would name, and what always holds."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.api.job import CapacitySpec, Prices
from llmbatch.core.capacity.forecast import Forecast, affordable, needed
from llmbatch.core.capacity.policy import Fallback, Fleet, Loss, Mix, Situation, plan_capacity

NOW = 1_800_000_000.0
AFTER, RETURN = 300, 3600


def spec(spot: int = 4, base: int = 0, most: int = 4, after: int = AFTER, back: int = RETURN) -> CapacitySpec:
    return CapacitySpec.model_validate(
        {
            "spot": {"max": spot},
            "onDemand": {"base": base, "max": most},
            "fallback": {"afterSeconds": after, "returnAfterSeconds": back},
        }
    )


def waiting(*ages: float) -> tuple[float, ...]:
    return tuple(NOW - age for age in ages)


def plan(policy: CapacitySpec | None = None, **seen: Any) -> Mix:
    return plan_capacity(Situation(spec=policy or spec(), now=NOW, **seen))


def sizes(mix: Mix) -> tuple[int, int]:
    return mix.spot, mix.on_demand


@pytest.mark.parametrize(
    ("policy", "useful", "expected"),
    [
        (spec(4, 0, 4), None, (4, 0)),
        (spec(4, 2, 4), None, (4, 2)),
        (spec(4, 2, 4), 3, (1, 2)),
        (spec(4, 2, 4), 1, (0, 1)),
        (spec(4, 2, 4), 0, (0, 0)),
        (spec(0, 1, 3), None, (0, 3)),
        (spec(0, 1, 3), 2, (0, 2)),
    ],
    ids=["spot first", "base and spot", "no more than useful", "base first", "nothing useful", "no spot", "few"],
)
def test_without_trouble(policy: CapacitySpec, useful: int | None, expected: tuple[int, int]):
    mix = plan(policy, useful=useful)
    assert sizes(mix) == expected
    assert (mix.wanted, mix.event) == (sum(expected), "")


def test_spot_workers_that_wait_too_long_are_given_up_and_not_the_others():
    fleet = Fleet(spot=1, waiting=waiting(AFTER, AFTER + 50, 20))
    first = plan(fleet=fleet)
    # It is written down before it is acted on.
    assert sizes(first) == (4, 0)
    assert (first.fallback, first.event) == (Fallback(2, NOW), "FellBackToOnDemand")
    then = plan(fleet=fleet, stored=first.fallback)
    assert sizes(then) == (2, 2)
    assert (then.event, then.wanted) == ("", 4)


def test_the_wait_is_looked_at_when_it_is_over():
    assert plan(fleet=Fleet(spot=3, waiting=waiting(100))).again_in == AFTER - 100
    assert plan(fleet=Fleet(spot=2), stored=Fallback(2, NOW - 600)).again_in == RETURN - 600


def test_workers_that_have_a_node_and_start_slowly_are_no_reason():
    assert plan(fleet=Fleet(spot=1, starting=3)).event == ""


def test_spot_workers_that_start_stay_when_the_others_are_given_up():
    first = plan(fleet=Fleet(starting=2, waiting=waiting(400, 400)))
    assert first.fallback.workers == 2
    # All four places stand in for: churn gave them up. Two of them have a node all the same.
    assert sizes(plan(fleet=Fleet(starting=2, on_demand=4), stored=Fallback(4, NOW - 60))) == (2, 4)
    assert sizes(plan(fleet=Fleet(spot=2, on_demand=4), stored=Fallback(4, NOW - 60))) == (2, 2)


def test_without_a_pause_spot_is_asked_for_all_the_time_and_nothing_is_stored_anew():
    policy, fleet = spec(back=0), Fleet(spot=1, on_demand=3, waiting=waiting(900, 900, 900))
    mix = plan(policy, fleet=fleet, stored=Fallback(3, NOW - 600))
    assert (sizes(mix), mix.event) == ((4, 3), "")
    worse = plan(
        policy, fleet=fleet._replace(spot=0, waiting=waiting(900, 900, 900, 900)), stored=Fallback(3, NOW - 600)
    )
    assert (worse.event, worse.fallback.workers) == ("FellBackToOnDemand", 4)


def test_no_more_stand_in_than_on_demand_allows():
    mix = plan(spec(4, 1, 2), fleet=Fleet(waiting=waiting(400, 400, 400, 400)))
    assert mix.fallback.workers == 1
    none = plan(spec(4, 2, 2), fleet=Fleet(waiting=waiting(400, 400, 400, 400)))
    assert (none.event, sizes(none)) == ("", (4, 2))
    assert "leaves no room" in none.reason


def test_spot_that_comes_and_does_not_last_is_given_up():
    young = tuple(Loss(at=NOW - ago, age=90) for ago in (250, 130, 10))
    mix = plan(fleet=Fleet(spot=3, starting=1, losses=young))
    assert (mix.event, mix.fallback.workers) == ("FellBackToOnDemand", 1)
    old = tuple(Loss(at=NOW - ago, age=5000) for ago in (250, 130, 10))
    assert plan(fleet=Fleet(spot=3, starting=1, losses=old)).event == ""
    long_ago = tuple(Loss(at=NOW - ago, age=90) for ago in (950, 830, 710))
    assert plan(fleet=Fleet(spot=3, starting=1, losses=long_ago)).event == ""
    one = (Loss(at=NOW - 10, age=90),)
    assert plan(spec(1), fleet=Fleet(starting=1, losses=one)).event == ""


def test_spot_is_tried_again_while_the_others_go_on_working():
    stored = Fallback(3, NOW - RETURN)
    trying = plan(fleet=Fleet(spot=1, on_demand=3), stored=stored)
    assert sizes(trying) == (4, 3)
    assert (trying.wanted, trying.event) == (4, "")
    half = plan(fleet=Fleet(spot=3, on_demand=3, waiting=waiting(100)), stored=stored)
    assert sizes(half) == (4, 1)
    back = plan(fleet=Fleet(spot=4, on_demand=1), stored=stored)
    assert (sizes(back), back.fallback, back.event) == ((4, 0), Fallback(), "ReturnedToSpot")


def test_spot_that_does_not_come_back_is_given_up_anew():
    stored = Fallback(3, NOW - RETURN - AFTER)
    mix = plan(fleet=Fleet(spot=1, on_demand=3, waiting=waiting(300, 300, 300)), stored=stored)
    assert (mix.fallback, mix.event) == (Fallback(3, NOW), "FellBackToOnDemand")
    assert sizes(plan(fleet=Fleet(spot=1, on_demand=3), stored=mix.fallback)) == (1, 3)


def test_a_worker_that_waited_all_along_does_not_end_the_next_trial():
    old = Fleet(on_demand=3, waiting=waiting(RETURN + 200, 10, 10, 10))
    assert plan(fleet=old, stored=Fallback(3, NOW - RETURN - 10)).event == ""
    over = plan(fleet=old, stored=Fallback(3, NOW - RETURN - AFTER))
    assert (over.event, over.fallback.workers) == ("FellBackToOnDemand", 3)


def test_near_its_end_a_job_does_not_go_back():
    stored = Fallback(3, NOW - RETURN)
    mix = plan(fleet=Fleet(spot=1, on_demand=3), stored=stored, forecast=Forecast(AFTER, 4))
    assert sizes(mix) == (1, 3)


def test_at_the_tail_those_that_stand_in_go_first_then_spot_then_the_base():
    policy, stored = spec(4, 1, 3), Fallback(2, NOW - 60)
    fleet = Fleet(spot=2, on_demand=3)
    expected = {5: (2, 3), 4: (2, 2), 3: (2, 1), 2: (1, 1), 1: (0, 1), 0: (0, 0)}
    assert {useful: sizes(plan(policy, fleet=fleet, stored=stored, useful=useful)) for useful in expected} == expected


def test_a_deadline_at_risk_gives_spot_up_at_once_and_adds_workers():
    # 2 workers would need 4,000 s more, 1,000 s are left: 9 workers are needed.
    forecast = Forecast(remaining_seconds=4000, workers=2, seconds_to_deadline=1000)
    fleet = Fleet(spot=2, waiting=waiting(5, 5))
    mix = plan(fleet=fleet, forecast=forecast)
    assert sizes(mix) == (4, 4)
    assert mix.wanted == 8
    calm = plan(fleet=fleet, forecast=forecast._replace(seconds_to_deadline=10_000))
    assert (sizes(calm), calm.event) == ((4, 0), "")


def test_a_deadline_at_risk_does_not_wait_for_spot():
    forecast = Forecast(remaining_seconds=1000, workers=2, seconds_to_deadline=700)
    mix = plan(fleet=Fleet(spot=2, waiting=waiting(5, 5)), forecast=forecast)
    assert (mix.event, mix.fallback.workers) == ("FellBackToOnDemand", 2)


def test_workers_added_for_the_deadline_stay_while_the_rate_wavers():
    # 8 workers do it in 85 % of the time: more than the tight margin, less than the wide one.
    forecast = Forecast(remaining_seconds=850, workers=8, seconds_to_deadline=1000)
    assert needed(forecast, there=8) == 8
    assert needed(forecast, there=4) == 8
    assert needed(forecast._replace(remaining_seconds=680), there=8) == 8
    assert needed(forecast._replace(remaining_seconds=600), there=8) == 7


PRICES = Prices(spot=1.0, on_demand=4.0)


def test_a_budget_leaves_spot_places_empty_rather_than_break():
    fleet = Fleet(waiting=waiting(400, 400, 400, 400))
    # 10 worker-hours are left: 10 all on spot, 40 all on demand.
    hours = Forecast(remaining_seconds=9000, workers=4)
    stands_in = {
        money: plan(fleet=fleet, forecast=hours._replace(money=money), prices=PRICES).fallback.workers
        for money in (5.0, 10.0, 17.5, 25.0, 40.0)
    }
    assert stands_in == {5.0: 0, 10.0: 0, 17.5: 1, 25.0: 2, 40.0: 4}


def test_a_worker_that_runs_goes_only_when_money_is_clearly_short():
    hours = Forecast(remaining_seconds=9000, workers=4, money=24.0)
    assert affordable(hours, PRICES, 4, running=0) == 1
    assert affordable(hours, PRICES, 4, running=2) == 2
    assert affordable(hours._replace(money=15.0), PRICES, 4, running=2) == 1


def test_where_spot_costs_as_much_the_budget_has_no_say():
    same = Prices(spot=4.0, on_demand=4.0)
    assert affordable(Forecast(9000, 4, money=1.0), same, 4, running=0) == 4


POLICIES = st.builds(
    lambda spot, base, more, after, back: spec(spot, base, base + more, after, back),
    st.integers(1, 12),
    st.integers(0, 3),
    st.integers(0, 6),
    st.sampled_from([0, AFTER]),
    st.sampled_from([0, RETURN]),
)
FLEETS = st.builds(
    Fleet,
    spot=st.integers(0, 12),
    starting=st.integers(0, 4),
    on_demand=st.integers(0, 9),
    waiting=st.lists(st.floats(NOW - 1000, NOW), max_size=12).map(tuple),
    losses=st.lists(st.builds(Loss, st.floats(NOW - 1000, NOW), st.floats(0, 1000)), max_size=10).map(tuple),
)
FORECASTS = st.builds(
    Forecast,
    remaining_seconds=st.none() | st.floats(0, 1e6),
    workers=st.integers(0, 12),
    seconds_to_deadline=st.none() | st.floats(-10, 1e5),
    money=st.none() | st.floats(0, 1e3),
)
SITUATIONS = st.builds(
    Situation,
    spec=POLICIES,
    now=st.just(NOW),
    useful=st.none() | st.integers(0, 20),
    fleet=FLEETS,
    forecast=FORECASTS,
    stored=st.just(Fallback()) | st.builds(Fallback, st.integers(1, 6), st.floats(NOW - 5000, NOW)),
    prices=st.none() | st.just(PRICES),
)


@settings(max_examples=50)
@given(SITUATIONS)
def test_the_policy_is_never_exceeded(seen: Situation):
    mix = plan_capacity(seen)
    policy = seen.spec
    assert 0 <= mix.spot <= policy.spot.max
    assert 0 <= mix.on_demand <= policy.on_demand.max
    assert mix.wanted <= (policy.spot.max + policy.on_demand.max if seen.useful is None else seen.useful)
    assert mix.wanted <= mix.spot + mix.on_demand <= mix.wanted + seen.stored.workers
    assert mix.on_demand >= min(mix.wanted, policy.on_demand.base)
    assert mix.fallback.workers <= max(policy.on_demand.max - policy.on_demand.base, seen.stored.workers)
    assert (mix.fallback.since is None) == (mix.fallback.workers == 0)
    assert bool(mix.event) == (mix.fallback != seen.stored)


@settings(max_examples=50)
@given(SITUATIONS)
def test_the_same_situation_settles(seen: Situation):
    """Nothing is stored without end while nothing changes.

    Without a deadline it is at most twice: spot is back, and given up again. With one, the stand-ins come to what it
    needs.
    """
    changes = 0
    for _ in range(seen.spec.on_demand.max + 3):
        mix = plan_capacity(seen)
        changes += bool(mix.event)
        seen = seen._replace(stored=mix.fallback)
    assert not plan_capacity(seen).event
    if seen.forecast.seconds_to_deadline is None:
        assert changes <= 2


@settings(max_examples=50)
@given(SITUATIONS)
def test_without_deadline_budget_or_stored_fallback_nothing_goes_on_demand_but_the_base(seen: Situation):
    calm = seen._replace(forecast=Forecast(), prices=None, stored=Fallback())
    mix = plan_capacity(calm)
    assert mix.on_demand == min(mix.wanted, seen.spec.on_demand.base)
