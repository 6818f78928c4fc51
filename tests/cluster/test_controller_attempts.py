"""Attempts on a real API server: submission, the end, the head's loss, suspension, a finished job's peace."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from llmbatch.api.base import KIND
from llmbatch.api.job import RowProgress
from llmbatch.api.progress import Progress
from operatorkit import HeadServer, Kube, head, job, kube, kubelet, operating

pytestmark = pytest.mark.cluster
ALL_ROWS = RowProgress(percentage=100.0, rows_total=10, rows_completed=10)


def status(api: Kube) -> dict[str, Any]:
    return api.job("summarise").get("status") or {}


def attempt(api: Kube, number: int) -> str:
    return f"{api.job('summarise')['metadata']['uid']}-{number}"


def runs(api: Kube, server: HeadServer, number: int = 1) -> None:
    api.wait(lambda: attempt(api, number) in server.jobs)
    api.wait(lambda: (status(api).get("attempt"), api.condition("summarise", "Running")[0]) == (number, "True"))


def told(api: Kube, *reasons: str) -> dict[str, int]:
    """Return how often each of these reasons is told of the job in an event."""
    found = [event["reason"] for event in api.items("Event") if event["regarding"]["kind"] == KIND]
    return {reason: found.count(reason) for reason in reasons}


def head_of(api: Kube) -> str:
    heads = [pod for pod in api.items("Pod") if pod["metadata"]["labels"]["ray.io/node-type"] == "head"]
    return heads[0]["metadata"]["name"] if heads else ""


def test_a_job_runs_to_its_end_and_never_again(kubeconfig: Path):
    with kube(kubeconfig) as api, kubelet(api) as nodes:
        api.create(job(capacity=nodes.capacity()))
        nodes.may_run.clear()
        with operating(api), head(api, nodes) as server:
            nodes.may_run.set()
            runs(api, server)
            assert "llmbatch.runtime.serve" in server.jobs[attempt(api, 1)]["entrypoint"]
            server.end(attempt(api, 1), Progress(state="complete", rows=ALL_ROWS))
            api.wait(lambda: api.condition("summarise", "Complete")[0] == "True")
            assert status(api)["progress"]["rowsCompleted"] == 10
            api.wait(lambda: api.get("RayCluster", "summarise") is None and not api.items("Pod"))
            api.wait(lambda: told(api, "Running", "Complete") == {"Running": 1, "Complete": 1})
        version = api.job("summarise")["metadata"]["resourceVersion"]
        with operating(api) as again:
            api.wait(lambda: again.metrics.passes._sum.get() > 0)
            api.patch(KIND, "summarise", {"spec": {"activeDeadlineSeconds": 1}})
            api.wait(lambda: status(api)["observedGeneration"] == 2)
            assert api.get("RayCluster", "summarise") is None
            assert api.condition("summarise", "Complete")[0] == "True"
        assert api.job("summarise")["metadata"]["resourceVersion"] != version


def test_a_lost_head_is_an_interruption_and_the_next_attempt_goes_on(kubeconfig: Path):
    with kube(kubeconfig) as api, kubelet(api) as nodes:
        api.create(job(capacity=nodes.capacity()))
        nodes.may_run.clear()
        with operating(api), head(api, nodes) as server:
            nodes.may_run.set()
            runs(api, server)
            lost = head_of(api)
            time.sleep(1)  # Kubernetes' times are whole seconds: a head as old as the attempt is the attempt's own.
            nodes.may_run.clear()
            api.delete("Pod", lost)
            api.wait(lambda: head_of(api) not in ("", lost))
            server.jobs.clear()
            nodes.may_run.set()
            runs(api, server, 2)
            assert (status(api)["interruptions"], status(api)["failures"]) == (1, 0)


def test_a_driver_that_fails_is_run_again_after_a_backoff_and_bounded(kubeconfig: Path):
    with kube(kubeconfig) as api, kubelet(api) as nodes:
        api.create(job(capacity=nodes.capacity(), failurePolicy={"backoffLimit": 0}))
        nodes.may_run.clear()
        with operating(api), head(api, nodes) as server:
            nodes.may_run.set()
            runs(api, server)
            server.end(attempt(api, 1), Progress(state="failed", error="InternalError: a contract broke"), exit_code=3)
            api.wait(lambda: api.condition("summarise", "Failed")[1] == "BackoffLimitExceeded")
            assert "a contract broke" in api.condition("summarise", "Failed")[2]


def test_suspend_asks_to_pause_then_removes_the_cluster_and_resume_goes_on(kubeconfig: Path):
    with kube(kubeconfig) as api, kubelet(api) as nodes:
        api.create(job(capacity=nodes.capacity()))
        nodes.may_run.clear()
        with operating(api), head(api, nodes) as server:
            nodes.may_run.set()
            runs(api, server)
            api.patch(KIND, "summarise", {"spec": {"suspend": True}})
            api.wait(lambda: any(capacity.get("pause") for _, capacity in server.capacities))
            server.end(attempt(api, 1), Progress(state="paused"))
            api.wait(lambda: api.condition("summarise", "Suspended")[0] == "True")
            api.wait(lambda: not api.items("Pod"))
            server.jobs.clear()
            api.patch(KIND, "summarise", {"spec": {"suspend": False}})
            runs(api, server, 2)
            assert (status(api)["interruptions"], status(api)["failures"]) == (0, 0)


def test_a_restarted_controller_finds_the_driver_and_submits_nothing(kubeconfig: Path):
    with kube(kubeconfig) as api, kubelet(api) as nodes:
        api.create(job(capacity=nodes.capacity()))
        nodes.may_run.clear()
        with operating(api), head(api, nodes) as server:
            nodes.may_run.set()
            runs(api, server)
            api.wait(lambda: status(api)["capacity"]["workersReady"] == 2 and "progress" in status(api))
            jobs, seen = dict(server.jobs), len(server.capacities)
            server_jobs = server.jobs
        with head(api, nodes) as server:
            server.jobs.update(server_jobs)
            with operating(api) as again:
                api.wait(lambda: server.capacities and again.metrics.passes._sum.get() > 0)
                assert again.writes == 0
                assert server.jobs.keys() == jobs.keys()
                assert seen > 0


def test_two_controllers_at_once_only_contend(kubeconfig: Path):
    """As for a moment when a Deployment does not stop the old one first. Every write is fenced."""
    with kube(kubeconfig) as api, kubelet(api) as nodes:
        api.create(job(capacity=nodes.capacity()))
        nodes.may_run.clear()
        with operating(api), operating(api), head(api, nodes) as server:
            nodes.may_run.set()
            runs(api, server)
            cluster = api.get("RayCluster", "summarise")
            api.patch(KIND, "summarise", {"spec": {"suspend": True}})
            api.wait(lambda: any(capacity.get("pause") for _, capacity in server.capacities))
            server.end(attempt(api, 1), Progress(state="paused"))
            api.wait(lambda: api.condition("summarise", "Suspended")[0] == "True")
            ended = dict(server.jobs)
            server.jobs.clear()
            api.patch(KIND, "summarise", {"spec": {"suspend": False}})
            runs(api, server, 2)
            assert api.get("RayCluster", "summarise")["metadata"]["uid"] != cluster["metadata"]["uid"]
            assert [*ended, *server.jobs] == [attempt(api, 1), attempt(api, 2)]
            server.end(attempt(api, 2), Progress(state="complete", attempt=2, rows=ALL_ROWS))
            api.wait(lambda: api.condition("summarise", "Complete")[0] == "True")
            api.wait(lambda: api.get("RayCluster", "summarise") is None and not api.items("Pod"))
            expected = {"Running": 2, "Suspended": 1, "Complete": 1}
            api.wait(lambda: all(told(api, reason)[reason] >= times for reason, times in expected.items()))
            time.sleep(3)  # for one too many to come
            assert told(api, *expected) == expected
            assert (status(api)["attempt"], status(api)["failures"], status(api)["interruptions"]) == (2, 0, 0)


def test_writes_to_the_job_by_others_do_not_stop_the_controller(kubeconfig: Path):
    with kube(kubeconfig) as api, kubelet(api) as nodes:
        api.create(job(capacity=nodes.capacity()))
        nodes.may_run.clear()
        with operating(api), head(api, nodes) as server:
            nodes.may_run.set()
            for number in range(30):
                api.patch(KIND, "summarise", {"metadata": {"labels": {"team": str(number)}}})
            runs(api, server)
            server.end(attempt(api, 1), Progress(state="complete", rows=ALL_ROWS))
            api.wait(lambda: api.condition("summarise", "Complete")[0] == "True")
        assert api.job("summarise")["metadata"]["labels"] == {"team": "29"}
