"""Draw the dashboard of the documents: python tests/monitoring/make_picture.py docs/dashboard.png.

A job that is decided on for real, in the cluster in memory of the tests, for a minute and a half; a real Prometheus
scrapes its figures, and `docs/draw_dashboard.py` asks that for every panel.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "docs")]
PASSES, NOTICES_AT, SECONDS_A_PASS = 450, (120, 260), 0.2


def main() -> None:
    """Fill a Prometheus and draw it."""
    from draw_dashboard import draw

    from dashboardkit import Operator, budgeted
    from llmbatch.runtime.control import serving
    from promkit import at, prometheus, wait_for_scrape

    operator = Operator(budgeted(9000))
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(operator.app, "127.0.0.1", 0) as port,
        prometheus(Path(folder), at(f"127.0.0.1:{port}")) as url,
    ):
        wait_for_scrape(url)
        began = time.time()
        for number in range(PASSES):
            if number in NOTICES_AT:
                operator.preempt()
            operator.step()
            time.sleep(SECONDS_A_PASS)
        draw(url, began, time.time(), "5s", Path(sys.argv[1]))


if __name__ == "__main__":
    main()
