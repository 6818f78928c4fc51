"""How much work, time and money a job has left, and how many workers follow from that."""

from __future__ import annotations

import math
from typing import NamedTuple

from llmbatch.api.job import Prices

MARGIN = 0.9
"""Share of the time left in which the work must fit before workers are added: the rate wavers by some percent."""
RELEASE_MARGIN = 0.7
"""Share of the time left in which it must fit before workers go again. The gap keeps a wavering rate from flapping."""
MONEY_SLACK = 1.25
"""Money an on-demand worker that runs may seem to lack before it goes, times: the same gap for the budget."""
SECONDS_AN_HOUR = 3600.0


class Forecast(NamedTuple):
    """What is left of a job, as far as it is known."""

    remaining_seconds: float | None = None
    """Time the rest takes at the present rate; None until a rate is known."""
    workers: int = 0
    """Workers that make the present rate."""
    seconds_to_deadline: float | None = None
    """Time left; None: no deadline."""
    money: float | None = None
    """What may still be spent, in the currency of the prices; None: no budget."""

    @property
    def work(self) -> float | None:
        """Worker-seconds left, None while unknown."""
        return None if self.remaining_seconds is None or not self.workers else self.remaining_seconds * self.workers


def needed(forecast: Forecast, there: int) -> int:
    """Return the workers that the deadline needs, 0 where there is none or the work is unknown.

    Args:
        forecast: What is left.
        there: Workers that run; as many stay as the wider margin asks for.
    """
    work, left = forecast.work, forecast.seconds_to_deadline
    if work is None or left is None or left <= 0:
        return 0
    # In the last second there is no dividing by what is left.
    tight, wide = (math.ceil(work / (max(left, 1.0) * margin)) for margin in (MARGIN, RELEASE_MARGIN))
    return max(tight, min(wide, there))


def affordable(forecast: Forecast, prices: Prices | None, workers: int, running: int) -> int:
    """Return how many of `workers` may be on demand so that the rest of the work fits the money left.

    With a share x on demand the rest costs `hours * (x * onDemand + (1 - x) * spot)`; solved for x. All of them where
    money, prices or work are unknown, or on-demand workers cost no more.

    Args:
        forecast: What is left.
        prices: What a worker costs an hour.
        workers: Workers the work is divided among.
        running: On-demand workers that run; they go only when the money falls short by `MONEY_SLACK`.
    """
    work = forecast.work
    if forecast.money is None or prices is None or not work or prices.on_demand <= prices.spot:
        return max(workers, running)

    def share(money: float) -> int:
        an_hour = money * SECONDS_AN_HOUR / work
        part = (an_hour - prices.spot) / (prices.on_demand - prices.spot)
        return math.floor(workers * min(1.0, max(0.0, part)))

    return max(share(forecast.money), min(running, share(forecast.money * MONEY_SLACK)))
