"""A job whose controller, head and cluster go away, that is paused, deleted and applied again: every row once."""

from __future__ import annotations

from pathlib import Path

import pytest
from testbed.store import Store

from e2ekit import PATIENCE, World, condition, done, preempted, world
from llmbatch.api.base import KIND
from llmbatch.core.job.children.names import JOB_LABEL

pytestmark = [pytest.mark.cluster, pytest.mark.e2e, pytest.mark.timeout(1800)]
WORKERS = 3
ROWS = 500
OWNED = ("Pod", "RayCluster", "ConfigMap", "Secret", "ServiceAccount", "NetworkPolicy", "PodDisruptionBudget")


def owned(job: World) -> list[str]:
    """Return what the job has left in its namespace."""
    items = [(kind, item["metadata"]) for kind in OWNED for item in job.api.items(kind)]
    return [f"{kind} {metadata['name']}" for kind, metadata in items if JOB_LABEL in (metadata.get("labels") or {})]


def test_a_job_goes_on_after_every_end_but_its_own(kubeconfig: Path, store: Store, tmp_path: Path):
    with world(kubeconfig, store, tmp_path) as (job, controller, _):
        job.fill(ROWS)
        job.come("on-demand")
        job.come("spot", WORKERS)
        document = job.job(seconds_per_row=0.6, workers=WORKERS)
        job.api.create(document)
        controller.start()
        job.until("rows are committed", done)

        controller.kill()
        unseen = job.status()
        controller.start()
        now = job.until("the next controller goes on", lambda status: done(status) > done(unseen))
        assert now["attempt"] == 1

        job.kill_head()
        now = job.until("the next attempt runs", lambda status: running(status, 2))
        assert (now["interruptions"], now["failures"]) == (1, 0)
        now = job.until("it commits", lambda status: done(status) > done(now))

        before = preempted(now)
        job.api.patch(KIND, job.name, {"spec": {"suspend": True}})
        job.until("suspended", lambda status: condition(status, "Suspended") == "True")
        job.until_true("no pod is left", lambda: not job.api.items("Pod"))
        paused = job.status()
        job.api.patch(KIND, job.name, {"spec": {"suspend": False}})
        job.until("resumed", lambda status: running(status, 3))
        now = job.until("it commits", lambda status: done(status) > done(paused))
        assert (now["interruptions"], now["failures"]) == (1, 0)
        assert preempted(now) == before, "the operator's own doing is no preemption"

        job.api.delete(KIND, job.name)
        job.until_true("nothing of it is left", lambda: job.api.get(KIND, job.name) is None and not owned(job))

        job.api.create(document)
        job.until("applied again, it begins where it was", lambda status: done(status) >= done(now))
        ended = job.until("complete", lambda status: status.get("phase") == "Complete")
        assert (ended["attempt"], ended["failures"], ended["interruptions"]) == (1, 0, 0)
        job.assert_every_row_once()
        job.api.wait(lambda: not job.api.items("Pod"), PATIENCE)


def running(status: dict, attempt: int) -> bool:
    return status.get("attempt") == attempt and condition(status, "Running") == "True"
