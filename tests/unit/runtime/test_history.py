from itertools import pairwise

import pytest

from llmbatch.api.job import RowProgress
from llmbatch.api.progress import Progress
from llmbatch.runtime.history import MOST_POINTS, History


def progress(second: int) -> Progress:
    return Progress(state="running", spec_hash="0" * 16, attempt=1, elapsed_seconds=second, rows=RowProgress())


@pytest.mark.parametrize("count", [1, MOST_POINTS, MOST_POINTS + 1, 10 * MOST_POINTS])
def test_a_long_run_keeps_few_points_spread_over_all_of_it(count: int) -> None:
    history = History()
    for second in range(count):
        history.add(progress(second))
    seconds = [point.elapsed_seconds for point in history.points]
    steps = {later - earlier for earlier, later in pairwise(seconds)}
    assert min(count, MOST_POINTS) / 2 <= len(seconds) <= MOST_POINTS
    assert seconds[0] == 0
    assert len(steps) <= 1
    assert count - seconds[-1] <= max(steps, default=1)
