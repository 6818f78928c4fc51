"""Prometheus and its tool, where they are installed (Debian: the package prometheus)."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALERTS = ROOT / "charts/llmbatch/files/alerts.yaml"
DASHBOARD = ROOT / "charts/llmbatch/files/dashboard.json"


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`, or skip the test and say how to have it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    return found


def promtool(*arguments: str, text: str | None = None) -> str:
    """Run promtool and return what it prints; fail the test with that when it does not succeed."""
    command = [program("promtool"), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.fail(f"promtool {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def panels() -> Iterator[tuple[str, list[str]]]:
    """Yield the title of each panel of the dashboard, and its queries."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] != "row":
            yield panel["title"], [target["expr"] for target in panel["targets"]]


def filled_in(query: str, window: str = "1m") -> str:
    """Return a query as Grafana sends it: every namespace and job, and rates over `window`."""
    return query.replace("$__rate_interval", window).replace("$namespace", ".*").replace("$job", ".*")
