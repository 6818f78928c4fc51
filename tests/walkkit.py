"""A new user's first hour: the documents' commands by copy and paste, on a test cluster with nothing of llmbatch's."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from chartkit import Body, Cluster
from promkit import prometheus, wait_for_scrape

ROOT = Path(__file__).resolve().parents[1]
README, QUICKSTART, MONITORING = (ROOT / name for name in ("README.md", "docs/quickstart.md", "docs/monitoring.md"))
BLOCK = re.compile(r'^```(console|yaml title="prometheus.yml")\n(.*?)^```$', re.MULTILINE | re.DOTALL)
JOB = "summarise-corpus"
WATCH_SECONDS = 3
PATIENCE = 480.0
"""Longest wait for one thing, in seconds."""


def blocks(page: Path, title: str, kind: str = "console") -> list[str]:
    """Return the blocks below a heading of a page, up to the next heading."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no {title}"
    return [text for said, text in BLOCK.findall(found[1]) if said.partition(" ")[0] == kind]


class Walk:
    """A cluster, and a shell in the repository as the cluster told its user to set it up."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        printed = (cluster.folder / "testbed.log").read_text().splitlines()
        self._exports = "\n".join(line for line in printed if line.startswith("export "))

    def follow(self, page: Path, title: str) -> str:
        """Run the commands below a heading, and return what they print."""
        return "".join(self._run(text) for text in blocks(page, title))

    def _run(self, block: str, folder: Path = ROOT) -> str:
        endless = re.sub(
            r"^(kubectl .* --watch)$", rf"timeout {WATCH_SECONDS} \1 || [ $? = 124 ]", block, flags=re.MULTILINE
        )
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{self._exports}\n{endless}"],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        print(f"{block}{done.stdout}{done.stderr}# {time.monotonic() - began:.1f} s", flush=True)
        assert done.returncode == 0, f"{block}{done.stdout}{done.stderr}"
        return done.stdout

    def status(self) -> Body:
        """Return the job's status; empty before the first one."""
        return (self.cluster.get("llmbatchjob", JOB) or {}).get("status") or {}

    def rows(self) -> int:
        """Return how many rows are committed."""
        return int(self.status().get("progress", {}).get("rowsCompleted", 0))

    def until(self, what: str, holds: Callable[[], Any]) -> None:
        """Wait until something holds."""
        began = time.monotonic()
        self.cluster.wait(holds, PATIENCE)
        print(f"# {what}: {time.monotonic() - began:.1f} s", flush=True)

    def to_complete(self, running: Callable[[], None] = lambda: None) -> None:
        """Go from the empty cluster to the output; an operator goes, and a node, while rows are committed.

        Args:
            running: called once rows are committed.
        """
        self.follow(README, "Install")
        self.until("rows are committed", self.rows)
        running()
        self.cluster.kubectl("rollout", "restart", "deployment/llmbatch", "--namespace=llmbatch-system")
        self.cluster.kubectl("rollout", "status", "deployment/llmbatch", "--namespace=llmbatch-system")
        seen = self.rows()
        self.until("the next operator sees more rows", lambda: self.rows() > seen)
        self.follow(QUICKSTART, "Take a node away")
        self.until("it counts", lambda: self.status().get("preemptions", {}).get("total"))
        self.follow(QUICKSTART, "Read the output")

    @contextmanager
    def scraped(self, folder: Path, seconds: int) -> Iterator[str]:
        """A Prometheus set up as the documents say, that scrapes the operator and the run; yields its URL."""
        scrapes = [
            scrape
            for title in ("Monitoring", "A run's own endpoint")
            for text in blocks(MONITORING, title, "yaml")
            for scrape in yaml.safe_load(text)["scrape_configs"]
        ]
        hosts = self.cluster.folder / "hosts" / "default"
        with prometheus(folder, *scrapes, seconds=seconds, hosts=hosts) as url:
            yield url

    def show_run(self, folder: Path, url: str) -> None:
        """Give the Prometheus the token of the run, as the documents say, and wait until it reads the run."""
        [text] = blocks(MONITORING, "A run's own endpoint")
        self._run(text, folder)
        wait_for_scrape(url, "llmbatch-run")
