"""What the operator and a run show at /metrics, scraped over HTTP and read by Prometheus' own parser."""

from __future__ import annotations

import pytest

from controllerkit import pod, progress, ray_job, running_snapshot, running_status
from llmbatch.api.job import CapacityStatus
from llmbatch.api.progress import Progress
from llmbatch.controller.metrics import JobFigures, Recovery
from llmbatch.core.job.snapshot import Notice, PodObservation, RayApiObservation, RuntimeObservation
from metricskit import OWNER, Operator, counted, families, operator_text, runtime_text, snapshot, value
from promkit import promtool


@pytest.fixture
def operator() -> Operator:
    seen = snapshot()
    return Operator(JobFigures.of(seen, seen.job.status))


def test_the_operator_shows_a_job(operator):
    text = operator_text(operator)
    assert value(text, "llmbatch_jobs", phase="Running") == 1
    assert value(text, "llmbatch_jobs", phase="Stalled") == 0
    assert value(text, "llmbatch_rows_total", result="succeeded", **OWNER) == 39
    assert value(text, "llmbatch_input_rows", **OWNER) == 100
    assert value(text, "llmbatch_workers", market="spot", state="ready", **OWNER) == 1
    assert value(text, "llmbatch_workers", market="spot", state="starting", **OWNER) == 1
    assert value(text, "llmbatch_workers", market="spot", state="leaving", **OWNER) == 1
    assert value(text, "llmbatch_capacity_gpus", market="on-demand", **OWNER) == 1
    assert value(text, "llmbatch_job_condition", condition="Running", reason="DriverRunning", **OWNER) == 1
    assert value(text, "llmbatch_cost_total", **OWNER) == 12.5
    assert value(text, "llmbatch_budget_max_cost", **OWNER) == 40
    assert value(text, "llmbatch_stage_replicas", stage="say", state="ready", **OWNER) == 3
    assert value(text, "llmbatch_drains_total", outcome="missed", **OWNER) == 1
    assert value(text, "llmbatch_api_writes_total") == 17


def test_a_job_that_goes_takes_its_series_along(operator):
    assert 'job_name="summarise"' in operator_text(operator)
    operator.jobs.clear()
    text = operator_text(operator)
    assert "job_name" not in text
    assert value(text, "llmbatch_jobs", phase="Running") == 0


def test_a_head_that_outlives_its_driver_shows_no_replicas(operator):
    last = ray_job("SUCCEEDED", exit_code=0, final_progress=snapshot().runtime.progress)
    kept = snapshot(ray=RayApiObservation(reachable=True, jobs=(last,)), runtime=RuntimeObservation())
    operator.jobs[:] = [JobFigures.of(kept, kept.job.status)]
    text = operator_text(operator)
    assert value(text, "llmbatch_rows_total", result="succeeded", **OWNER) == 39
    assert "llmbatch_stage_" not in text


def test_without_a_driver_a_job_keeps_its_rows_and_loses_its_stages(operator):
    ended = running_snapshot(pods=(), runtime=RuntimeObservation())
    status = running_status(progress=progress().rows)
    operator.jobs[:] = [JobFigures.of(ended, status)]
    text = operator_text(operator)
    assert value(text, "llmbatch_rows_total", result="failed", **OWNER) == 1
    assert "llmbatch_stage_" not in text


def test_an_attempt_that_has_not_read_the_ledger_shows_no_fewer_rows(operator):
    fresh = snapshot(runtime=RuntimeObservation(progress=Progress(state="running")))
    operator.jobs[:] = [JobFigures.of(fresh, running_status(progress=progress().rows))]
    assert value(operator_text(operator), "llmbatch_rows_total", result="succeeded", **OWNER) == 39


def test_a_run_shows_what_the_operator_shows_of_it(operator):
    own = {sample.name: sample.value for family in families(runtime_text()).values() for sample in family.samples}
    shown = families(operator_text(operator))
    for name in own:
        assert any(sample.name == name for family in shown.values() for sample in family.samples), name
    assert value(runtime_text(), "llmbatch_rows_total", result="succeeded") == 39
    assert value(runtime_text(), "llmbatch_stage_service_seconds_per_row", stage="say") == 0.5


def test_preemptions_are_counted_by_signal_and_market_with_their_notice(operator):
    failed = pod("w1", notice=Notice(kind="lost", source="pod failed: OOM", loss="failure"))
    seen = snapshot(pods=(*snapshot().pods[:2], failed, *snapshot().pods[3:]))
    before, after = counted("w0"), counted("w0", "w1", "w2")
    assert operator.metrics.count_preemptions(before, after, seen)
    assert not operator.metrics.count_preemptions(after, after, seen)
    text = operator_text(operator)
    assert value(text, "llmbatch_preemptions_total", source="DisruptionTarget", market="spot") == 1
    assert families(text)["llmbatch_preemptions"].samples[0].value == 1
    assert value(text, "llmbatch_preemption_notice_seconds_sum") == 20
    assert value(text, "llmbatch_preemption_notice_seconds_count") == 1


def figures(ready: int, wanted: int = 3, **status: object) -> JobFigures:
    workers: tuple[PodObservation, ...] = tuple(pod(f"w{index}") for index in range(ready))
    seen = snapshot(pods=(pod("head", "head"), *workers))
    return JobFigures.of(seen, running_status(capacity=CapacityStatus(workers_wanted=wanted), **status))


def test_recovery_lasts_until_as_many_workers_take_work_as_are_wanted():
    recovery = Recovery()
    assert recovery.update(0, figures(2), preempted=False) is None
    assert recovery.update(10, figures(2), preempted=True) is None
    assert recovery.update(15, figures(1), preempted=True) is None
    assert recovery.update(40, figures(3), preempted=False) == 30
    assert recovery.update(50, figures(3), preempted=False) is None


def test_a_job_that_ends_before_it_recovers_is_not_timed():
    recovery = Recovery()
    recovery.update(10, figures(2), preempted=True)
    assert recovery.update(20, figures(0, wanted=0, conditions=()), preempted=False) is None
    assert recovery.update(30, figures(3), preempted=False) is None


def test_names_and_labels_keep_prometheus_rules(operator):
    operator.metrics.count_preemptions(counted(), counted("w2"), snapshot())
    for text in (operator_text(operator), runtime_text()):
        promtool("check", "metrics", text=text)
        for name, family in families(text).items():
            assert family.documentation.endswith("."), name
            for sample in family.samples:
                assert not {"job", "instance", "namespace", "pod"} & set(sample.labels), "Prometheus sets these itself"
