"""A job from `apply` to Complete on spot nodes that are taken away in every way there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from testbed.store import Store

from e2ekit import PATIENCE, done, preempted, world

pytestmark = [pytest.mark.cluster, pytest.mark.e2e, pytest.mark.timeout(1800)]
WORKERS = 6
ROWS = 2000


def test_a_job_completes_while_spot_is_taken_away_and_comes_back(kubeconfig: Path, store: Store, tmp_path: Path):
    with world(kubeconfig, store, tmp_path) as (job, controller, _):
        job.fill(ROWS)
        job.come("on-demand", 2)
        job.come("spot", WORKERS + 2)
        job.api.create(job.job(seconds_per_row=0.6, workers=WORKERS))
        controller.start()

        def ready(status: dict, spot: int, others: int = 0) -> bool:
            capacity = status.get("capacity", {})
            counted = (capacity.get("spotReady"), capacity.get("workersReady")) == (spot, spot + others)
            return counted and len(job.busy()) == spot

        job.until("all workers are there", lambda status: ready(status, WORKERS))
        job.until("rows are committed", done)

        noticed = job.busy()[:2]
        job.notice(*noticed)
        job.until("two nodes on notice", lambda status: preempted(status) == 2)
        job.until_true("others make up for them", lambda: len(set(job.busy()) - set(noticed)) == WORKERS)
        job.vanish(*noticed)
        job.until("the machines are gone", lambda status: ready(status, WORKERS) and preempted(status) == 2)

        job.vanish(job.busy()[0])
        job.until("a machine vanished", lambda status: preempted(status) == 3)
        job.come("spot")
        job.until("another one came", lambda status: ready(status, WORKERS))

        job.vanish(*job.spot)
        job.until("spot is gone", lambda status: preempted(status) == 3 + WORKERS)
        stood_in = job.until("on-demand stands in", lambda status: ready(status, 0, others=2))
        job.until("on-demand commits", lambda status: done(status) > done(stood_in))
        job.come("spot", WORKERS)
        job.until("spot is back, on-demand goes", lambda status: ready(status, WORKERS))

        ended = job.until("complete", lambda status: status.get("phase") == "Complete")
        assert (ended["attempt"], ended["failures"], ended["interruptions"]) == (1, 0, 0)
        assert ended["preemptions"]["total"] == 3 + WORKERS, [loss["source"] for loss in ended["preemptions"]["recent"]]
        assert ended["preemptions"].get("failures", 0) == 0
        job.assert_every_row_once()
        job.api.wait(lambda: not job.api.items("Pod"), PATIENCE)
