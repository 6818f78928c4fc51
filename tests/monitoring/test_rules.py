"""Alerts and dashboard ask for what is there, each alert fires in a test, and each has a runbook."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from draw_dashboard import sent
from prometheus_client.parser import text_string_to_metric_families

from llmbatch.controller.metrics import JobFigures
from metricskit import Operator, counted, operator_text, snapshot
from promkit import ALERTS, DASHBOARD, ROOT, panels, promtool

CASES = Path(__file__).with_name("alerts_test.yaml")
MANUAL = ROOT / "docs/monitoring.md"
TARGET_LABELS = {"instance", "job"}
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
QUERIES = [
    *((rule["alert"], rule["expr"]) for rule in RULES),
    *((title, sent(query, "1m")) for title, queries in panels() for query in queries),
]


@pytest.fixture(scope="module")
def shown() -> dict[str, set[str]]:
    """Label names by series, of everything that the operator shows."""
    seen = snapshot()
    operator = Operator(JobFigures.of(seen, seen.job.status))
    operator.metrics.count_preemptions(counted(), counted("w2"), seen)
    operator.metrics.actions.labels("SendCapacity").inc()
    labels: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(operator_text(operator)):
        for sample in family.samples:
            labels[sample.name] |= set(sample.labels)
    return labels


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[f"{where}-{n}" for n, (where, _) in enumerate(QUERIES)])
def test_a_query_asks_for_series_and_labels_that_there_are(where: str, query: str, shown: dict[str, set[str]]) -> None:
    series = set(re.findall(r"\b(?:llmbatch|process)_\w+", query))
    assert series
    assert series <= set(shown), where
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", query):
        assert set(re.findall(r"(\w+)(?:=~|!=|!~|=)", matchers)) <= shown[name], where
    known = set().union(*(shown[name] for name in series)) | TARGET_LABELS
    for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query):
        assert {label.strip() for label in group.split(",")} <= known, where


def test_every_query_parses(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query} for number, (_, query) in enumerate(QUERIES)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_the_scrapes_in_the_manual_are_taken(tmp_path: Path) -> None:
    for name in ("alerts.yaml", "token"):
        (tmp_path / name).write_text(ALERTS.read_text() if name == "alerts.yaml" else "secret")
    shown = re.findall(r'^```yaml title="prometheus.yml"\n(.*?)^```$', MANUAL.read_text(), re.MULTILINE | re.DOTALL)
    assert shown
    for text in shown:
        (tmp_path / "prometheus.yml").write_text(text)
        promtool("check", "config", str(tmp_path / "prometheus.yml"))


def test_the_alerts_fire_where_they_should_and_nowhere_else() -> None:
    promtool("check", "rules", str(ALERTS))
    promtool("test", "rules", str(CASES))


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not_yet() -> None:
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_has_a_runbook_that_names_it(rule: dict[str, Any]) -> None:
    prefix = "https://github.com/llmbatch/llmbatch/blob/main/"
    page = rule["annotations"]["runbook_url"]
    assert page.startswith(f"{prefix}docs/runbooks/")
    assert rule["alert"] in (ROOT / page.removeprefix(prefix)).read_text()
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert dashboard["uid"]
    assert dashboard["schemaVersion"] >= 36
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])))
    assert used - variables <= {"__rate_interval"}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["description"]


def test_no_two_panels_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
