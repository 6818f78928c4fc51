"""How many spot and on-demand workers a job asks for.

Spot first, a base on demand; on-demand workers stand in where spot does not come or does not last, and go again when
spot is back. A deadline makes this impatient, a budget makes it thrifty. What has to outlive a pass is a `Fallback`:
it stands in the job's status before anything is done for it, so that a restart of the operator loses nothing.

Work is measured in worker-seconds: remaining time at the present rate times the workers that make the rate. Twice the
workers are taken to need half the time.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from llmbatch.api.job import CapacitySpec, Prices
from llmbatch.core.capacity.forecast import Forecast, affordable, needed

CHURN_LOSSES = 2
"""Workers that must be lost young before that is more than bad luck."""
CHURN_SAMPLE = 10
"""Losses that are remembered: of a large fleet, half of so many tell."""


class Fallback(NamedTuple):
    """On-demand workers that stand in for spot ones: what is stored from pass to pass."""

    workers: int = 0
    """How many."""
    since: float | None = None
    """When spot was last given up, Unix seconds; None while nothing stands in."""


class Loss(NamedTuple):
    """A spot worker that was taken away."""

    at: float
    """When, Unix seconds."""
    age: float
    """How old it was, in seconds."""


class Fleet(NamedTuple):
    """The workers there are, those that go left out."""

    spot: int = 0
    """Spot workers that take work."""
    starting: int = 0
    """Spot workers that have a node and do not take work yet."""
    on_demand: int = 0
    """On-demand workers that take work."""
    waiting: tuple[float, ...] = ()
    """When each spot worker was created that no node has taken yet, Unix seconds."""
    losses: tuple[Loss, ...] = ()
    """The spot workers lost last, `CHURN_SAMPLE` at most."""


class Mix(NamedTuple):
    """What to ask for."""

    spot: int
    """Spot workers."""
    on_demand: int
    """On-demand workers."""
    wanted: int
    """Workers that are to take work: fewer than the two together while spot is tried again."""
    fallback: Fallback = Fallback()
    """To be stored, and acted on once it is."""
    event: Literal["", "FellBackToOnDemand", "ReturnedToSpot"] = ""
    """What `fallback` changes, if anything."""
    reason: str = ""
    """Why, in words that do not waver."""
    again_in: float | None = None
    """Seconds until time alone changes the answer."""


class _Places(NamedTuple):
    """How the workers divide before anything stands in for anything."""

    base: int
    """Kept on demand."""
    spot: int
    """For spot."""
    beyond: int
    """On-demand workers besides all spot ones, that a deadline needs."""
    stand_ins: int
    """On-demand workers that may stand in for spot ones, by policy and budget."""

    @property
    def wanted(self) -> int:
        return self.base + self.spot + self.beyond


class Situation(NamedTuple):
    """Everything the answer depends on."""

    spec: CapacitySpec
    """The policy."""
    now: float
    """Unix seconds."""
    useful: int | None = None
    """Workers the job can use; None: as many as it gets."""
    fleet: Fleet = Fleet()
    """The workers there are."""
    forecast: Forecast = Forecast()
    """The work, the time and the money left, as far as known."""
    stored: Fallback = Fallback()
    """What the status says stands in."""
    prices: Prices | None = None
    """What a worker costs an hour."""


def plan_capacity(seen: Situation) -> Mix:
    """Return the workers to ask for."""
    spec, fleet = seen.spec, seen.fleet
    if spec.spot.max == 0:
        plain = spec.on_demand.max if seen.useful is None else min(seen.useful, spec.on_demand.max)
        return Mix(spot=0, on_demand=plain, wanted=plain)
    places = _places(seen)
    trying = seen.stored.since is None or _retries(seen)
    standing = min(seen.stored.workers, max(0, places.spot - fleet.spot), places.stand_ins)
    asked = places.spot if trying else places.spot - standing
    fallback, event, reason = _next(seen, places, asked, standing, trying=trying)
    return Mix(
        # A spot worker that has its node is not sent away for those that wait.
        spot=min(places.spot, max(asked, fleet.spot + fleet.starting)),
        on_demand=places.base + places.beyond + standing,
        wanted=places.wanted,
        fallback=fallback,
        event=event,
        reason=reason or _says(places, standing, trying=trying),
        again_in=_again(seen, trying=trying),
    )


def churns(seen: Situation, places: int) -> bool:
    """Tell whether spot workers come and do not last: within the patience, half of them were lost younger than it."""
    patience = seen.spec.fallback.after_seconds
    young = sum(loss.age < patience and seen.now - loss.at <= patience for loss in seen.fleet.losses)
    return young >= max(CHURN_LOSSES, math.ceil(min(places, CHURN_SAMPLE) / 2))


def _places(seen: Situation) -> _Places:
    spot_most, on_demand = seen.spec.spot.max, seen.spec.on_demand
    there = seen.fleet.spot + seen.fleet.on_demand
    wanted = max(spot_most + on_demand.base, min(needed(seen.forecast, there), spot_most + on_demand.max))
    if seen.useful is not None:
        wanted = min(wanted, seen.useful)
    base = min(wanted, on_demand.base)
    allowed = affordable(seen.forecast, seen.prices, wanted, seen.fleet.on_demand)
    room = max(0, min(on_demand.max, allowed) - base)
    spot = min(spot_most, wanted - base)
    beyond = min(wanted - base - spot, room)
    return _Places(base=base, spot=spot, beyond=beyond, stand_ins=room - beyond)


def _next(
    seen: Situation, places: _Places, asked: int, standing: int, *, trying: bool
) -> tuple[Fallback, Literal["", "FellBackToOnDemand", "ReturnedToSpot"], str]:
    """Return what is to be stored, which event that is, and why."""
    stored = seen.stored
    given_up = _given_up(seen, places, asked, trying=trying)
    # A trial that is given up is given up for all: those that stand in stay.
    workers = min(places.stand_ins, max(given_up, standing) if trying else given_up + stored.workers)
    if given_up and workers == 0:
        return stored, "", "spot does not come, and onDemand.max or the budget leaves no room to stand in"
    pauses = seen.spec.fallback.return_after_seconds > 0
    if given_up and (workers > stored.workers or (trying and pauses)):
        return Fallback(workers, seen.now), "FellBackToOnDemand", "spot does not come: on-demand workers stand in"
    if stored.since is not None and trying and places.spot <= seen.fleet.spot:
        return Fallback(), "ReturnedToSpot", "spot is back: nothing stands in for it"
    return stored, "", ""


def _given_up(seen: Situation, places: _Places, asked: int, *, trying: bool) -> int:
    """Return how many of the spot workers asked for are not to be waited for any longer."""
    fleet = seen.fleet
    lacking = max(0, asked - fleet.spot)
    if churns(seen, places.spot):
        return lacking
    # Those that are given up already go by and by; the longest waiting ones go first.
    going = max(0, fleet.spot + fleet.starting + len(fleet.waiting) - asked)
    due = _due(seen, trying=trying)[going:]
    coming = fleet.spot + max(fleet.on_demand, places.base + places.beyond + seen.stored.workers)
    late = min(len(due), max(0, needed(seen.forecast, coming) - coming))
    return min(lacking, max(late, sum(_counts(time, seen, trying=trying) for time in due)))


def _due(seen: Situation, *, trying: bool) -> list[float]:
    """Return until when each waiting spot worker is waited for, first one first; a trial gives each its time anew."""
    since, fallback = seen.stored.since, seen.spec.fallback
    start = since + fallback.return_after_seconds if trying and since is not None else 0.0
    return sorted(max(created, start) + fallback.after_seconds for created in seen.fleet.waiting)


def _counts(due: float, seen: Situation, *, trying: bool) -> bool:
    """Tell whether a wait is over and was not yet when spot was given up; that time is stored in whole seconds."""
    since = seen.stored.since
    return due <= seen.now and (trying or since is None or due >= since + 1)


def _retries(seen: Situation) -> bool:
    """Tell whether spot is tried again: after the pause, unless the job ends before it could pay."""
    since, fallback = seen.stored.since, seen.spec.fallback
    if since is None or seen.now - since < fallback.return_after_seconds:
        return False
    left = seen.forecast.remaining_seconds
    return left is None or left > fallback.after_seconds


def _again(seen: Situation, *, trying: bool) -> float | None:
    times = _due(seen, trying=trying)
    if seen.stored.since is not None and not trying:
        times.append(seen.stored.since + seen.spec.fallback.return_after_seconds)
    return min((time - seen.now for time in times if time > seen.now), default=None)


def _says(places: _Places, standing: int, *, trying: bool) -> str:
    if standing:
        return "on-demand workers stand in for spot" + (", which is tried again" if trying else "")
    return "the deadline needs on-demand workers besides spot" if places.beyond else ""
