"""`llmbatch run --capacity`: real raylets with logical GPUs that are taken away, with a notice and without one."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.data._internal.execution.operators.map_transformer import MapTransformer
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from llmbatch.runtime.pools.check import missing_names
from runkit import rows_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

ROWS = 640
LLMBATCH = (str(Path(sys.executable).parent / "llmbatch"),)
LACKING = """
from ray.data._internal.execution.operators.map_transformer import MapTransformer
del MapTransformer.get_transform_fns
from llmbatch.cli.main import app
app()
"""
"""llmbatch with a Ray that lacks one of the names."""
PATIENT = """
from llmbatch.runtime import embedded
embedded.DEAD_NODE_CONFIG |= {"health_check_failure_threshold": 3600}
from llmbatch.cli.main import app
app()
"""
"""llmbatch with a Ray that believes in a silent node for an hour."""


def job(folder: Path, services: list[float], allocation: dict[str, Any]) -> dict[str, Any]:
    """Return a job over `ROWS` rows whose stages take so many seconds for a batch of 16 rows."""
    lines = (json.dumps({"id": f"r{number}", "text": f"document {number}"}) for number in range(ROWS))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    stages = [
        {
            "name": f"stage{number}",
            "engine": "simulated",
            "prompt": {"user": "{{ text }}"},
            "replicas": {"min": 1, "max": 4},
            "resources": {"gpus": 1, "cpus": 0.1},
            "batchSize": 16,
            "simulation": {"secondsPerRow": seconds / 16, "loadSeconds": 0.5},
        }
        for number, seconds in enumerate(services, 1)
    ]
    return {
        "apiVersion": "llmbatch.dev/v1alpha1",
        "kind": "LLMBatchJob",
        "metadata": {"name": "preempted"},
        "spec": {
            "input": {"uri": str(folder / "rows.jsonl"), "format": "jsonl", "idField": "id"},
            "stages": stages,
            "output": {"uri": str(folder / "out")},
            "shardRows": 16,
            "allocation": allocation,
        },
    }


def run(
    folder: Path, document: dict[str, Any], trace: str, *more: str, program: Sequence[str] = LLMBATCH
) -> list[dict[str, Any]]:
    """Run a job on a trace, and return its progress over time."""
    (folder / "job.json").write_text(json.dumps(document))
    (folder / "trace.csv").write_text("time_seconds,nodes\n" + trace)
    command = [*program, "run", "job.json", "--capacity", "trace.csv", "--json", "--object-store-mb", "100", *more]
    # Ray's workers are nice by 15 otherwise, and get little of a machine that does other work as well.
    env = os.environ | {"RAY_worker_niceness": "0"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    # Ray's core may write a line of its own in between.
    seen = [json.loads(line)["progress"] for line in done.stdout.splitlines() if line.startswith("{")]
    assert seen[-1]["state"] == "complete"
    return seen


def assert_every_row_once(folder: Path) -> None:
    found = rows_of(folder / "out")
    assert Counter(row["id"] for row in found) == Counter(f"r{number}" for number in range(ROWS))
    assert all(row["error"] is None for row in found)


@pytest.mark.parametrize("notice", [(), ("--notice", "6")], ids=["without notice", "with notice"])
def test_nodes_are_lost_and_every_row_comes_out_once(tmp_path: Path, notice: tuple[str, ...]) -> None:
    document = job(tmp_path, [0.5, 1.0, 0.25], {})
    seen = run(tmp_path, document, "0,a;b;c;d\n18,a\n34,a;e;f\n600,a;e;f\n", *notice)
    assert_every_row_once(tmp_path)
    gpus = [progress["gpus"] for progress in seen]
    # The run had fewer GPUs than stages for a while, and met the new nodes.
    assert min(gpus[gpus.index(max(gpus)) :]) < 3
    assert gpus[-1] == 3


def test_rows_of_a_node_that_is_said_to_be_lost_are_run_elsewhere_before_ray_notices(tmp_path: Path) -> None:
    document = job(tmp_path, [0.5, 1.0], {})
    seen = run(tmp_path, document, "0,a;b;c\n15,a;b\n600,a;b\n", program=(sys.executable, "-c", PATIENT))
    assert_every_row_once(tmp_path)
    gpus = [progress["gpus"] for progress in seen]
    assert max(gpus) == 3
    assert gpus[-1] == 2


@pytest.mark.parametrize("services", [[0.1, 0.2], [0.1, 0.2, 0.1]], ids=["two stages", "three stages"])
def test_the_reservation_policy_starves_no_stage(tmp_path: Path, services: list[float]) -> None:
    """Chained stages of 1 to 4 replicas, and fewer GPUs than the sum of the maxima."""
    document = job(tmp_path, services, {"policy": "rayReservation", "reservationRatio": 0.5})
    seen = run(tmp_path, document, "0,a;b;c;d\n600,a;b;c;d\n")
    assert_every_row_once(tmp_path)
    assert seen[-1]["allocationPolicy"] == "rayReservation"
    most_ready = [max(progress["pools"][index]["ready"] for progress in seen) for index in range(len(services))]
    assert min(most_ready) >= 1
    assert any(all(pool["ready"] for pool in progress["pools"]) for progress in seen)


def test_this_ray_has_every_private_name() -> None:
    assert missing_names() == ""


def test_a_private_name_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(MapTransformer, "get_transform_fns")
    monkeypatch.setattr(StreamingExecutor, "execute", lambda executor: executor._topology, raising=True)
    missing = {"MapTransformer.get_transform_fns", "StreamingExecutor._actor_autoscaler"}
    assert set(missing_names().split(", ")) == missing | {"StreamingExecutor._resource_manager"}


def test_without_a_private_name_the_run_goes_on_as_stock_ray_does_and_says_so(tmp_path: Path) -> None:
    document = job(tmp_path, [0.05, 0.05], {})
    seen = run(tmp_path, document, "0,a;b;c\n600,a;b;c\n", program=(sys.executable, "-c", LACKING))
    assert_every_row_once(tmp_path)
    assert seen[-1]["allocationPolicy"] == "stock"
    assert any("this Ray lacks MapTransformer.get_transform_fns" in warning for warning in seen[-1]["warnings"])
