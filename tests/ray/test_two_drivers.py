"""Two drivers at work on one output. `benchmarks/kill_runs.py` also kills them, their workers and their nodes."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from jobs import job
from runkit import rows_of, run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

IDS = [f"row-{number}" for number in range(240)]


@pytest.fixture
def slow_job(tmp_path: Path) -> Path:
    """Two chained stages that take some seconds together."""
    (tmp_path / "in").mkdir()
    for part in range(3):
        lines = [json.dumps({"id": row_id, "text": f"text of {row_id}"}) for row_id in IDS[part::3]]
        (tmp_path / "in" / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    common = {"engine": "simulated", "resources": {"cpus": 0.5}, "batchSize": 8}
    stages = [
        {"name": "one", "prompt": {"user": "{{ text }}"}, "simulation": {"secondsPerRow": 0.03}, **common},
        {"name": "two", "prompt": {"user": "{{ one }}"}, **common},
    ]
    document = job(tmp_path, stages=stages, output={"uri": f"{tmp_path}/out"}).to_wire()
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_two_drivers_at_once_share_one_output(slow_job: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda _: run(slow_job, tmp_path / "out"), range(2)))
    assert [(code, last["result"]["state"]) for code, last in ends] == [(0, "complete")] * 2
    assert ends[0][1]["result"]["final"] == ends[1][1]["result"]["final"]
    assert Counter(row["id"] for row in rows_of(tmp_path / "out")) == Counter(IDS)
