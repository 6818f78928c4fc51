"""Prometheus and its tool, where they are installed (Debian: the package prometheus)."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed.controlplane import free_port

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
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.fail(f"promtool {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def panels() -> Iterator[tuple[str, list[str]]]:
    """Yield the title of each panel of the dashboard, and its queries."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] != "row":
            yield panel["title"], [target["expr"] for target in panel["targets"]]


def has_data(series: list[dict[str, Any]]) -> bool:
    """Tell whether the series of a range query have a value."""
    return any(math.isfinite(float(value)) for found in series for _, value in found["values"])


def at(target: str) -> dict[str, Any]:
    """Return the scrape of one address."""
    return {"job_name": "llmbatch", "static_configs": [{"targets": [target]}]}


@contextmanager
def prometheus(folder: Path, *scrapes: dict[str, Any], seconds: int = 1, hosts: Path | None = None) -> Iterator[str]:
    """A Prometheus that scrapes every so many seconds and knows the alerts; yields its URL.

    Args:
        folder: of its files.
        scrapes: as in its configuration.
        seconds: between two scrapes.
        hosts: its /etc/hosts, such as that of a test cluster's pods; needs root.
    """
    config = {
        "global": {"scrape_interval": f"{seconds}s", "evaluation_interval": f"{seconds}s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": list(scrapes),
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    command = [
        program("prometheus"), f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
    ]  # fmt: skip
    if hosts is not None:
        script = f'mount --make-rprivate / && mount --bind {hosts} /etc/hosts && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", script, "sh", *command]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until_ready(f"http://{address}")
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(120)


def wait_until_ready(url: str, seconds: float = 120) -> None:
    """Wait until it answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"{url}/-/ready", timeout=5):
            return
        time.sleep(0.1)
    pytest.fail(f"{url} is not ready within {seconds:.0f} s")


def wait_for_scrape(url: str, target: str = "", *, after: float = 0.0, seconds: float = 120) -> float:
    """Wait until a target of that scrape, or any, was scraped after some time (Unix seconds), and return when."""
    up = f"up{{job=~'{target or '.+'}'}}"
    query = f"max(timestamp({up})*{up})>{after}"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        arguments = urllib.parse.urlencode({"query": query})
        with suppress(OSError), urllib.request.urlopen(f"{url}/api/v1/query?{arguments}", timeout=30) as answer:
            if found := json.load(answer)["data"]["result"]:
                return float(found[0]["value"][1])
        time.sleep(0.1)
    pytest.fail(f"{url} has not scraped {target or 'its target'} within {seconds:.0f} s")
