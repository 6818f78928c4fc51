"""What `llmbatch submit` refuses before it asks a cluster."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from llmbatch.cli.main import app

EXAMPLE = yaml.safe_load((Path(__file__).parents[3] / "examples" / "spot.yaml").read_text(encoding="utf-8"))


def submitted(folder: Path, **changes: Any) -> Result:
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump({**EXAMPLE, "spec": {**EXAMPLE["spec"], **changes}}), encoding="utf-8")
    return CliRunner().invoke(app, ["submit", str(file), "--dry-run", "client"])


def test_a_job_that_can_run_is_valid(tmp_path: Path):
    result = submitted(tmp_path)
    assert result.exit_code == 0, result.output
    assert "is valid (client dry run)" in result.output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shardRows": 0}, "spec.shardRows: '0'"),
        ({"budget": {"maxCost": float("inf"), "prices": {"spot": 1.0, "onDemand": 3.0}}}, "spec.budget.maxCost: 'inf'"),
        ({"capacity": {}}, "spec.capacity: 'no workers': spot.max or onDemand.max must be 1 or more"),
        ({"podOverlay": {"spec": {"nodeName": "gpu-1"}}}, "spec.podOverlay.spec.nodeName: 'gpu-1'"),
    ],
)
def test_what_the_operator_would_refuse_is_refused_here(tmp_path: Path, change: dict[str, Any], says: str):
    result = submitted(tmp_path, **change)
    assert result.exit_code == 2
    assert says in result.stderr
    assert str(tmp_path / "job.yaml") in result.stderr
