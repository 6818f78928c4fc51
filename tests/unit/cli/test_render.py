"""`llmbatch render`: the children of a job without a cluster."""

from pathlib import Path

import yaml
from typer.testing import CliRunner

from llmbatch.cli.main import app

EXAMPLE = Path(__file__).parents[3] / "examples" / "spot.yaml"


def test_render_prints_every_child_and_no_token():
    result = CliRunner().invoke(app, ["render", str(EXAMPLE), "--image", "registry.example/llmbatch:1"])
    assert result.exit_code == 0, result.output
    children = {child["kind"]: child for child in yaml.safe_load_all(result.stdout)}
    assert list(children) == [
        "ServiceAccount",
        "Secret",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "ConfigMap",
        "RayCluster",
    ]
    assert "stringData" not in children["Secret"]
    [container] = children["RayCluster"]["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/llmbatch:1"


def test_render_names_what_is_wrong(tmp_path: Path):
    document = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    document["spec"]["podOverlay"] = {"spec": {"nodeName": "gpu-1"}}
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    result = CliRunner().invoke(app, ["render", str(file)])
    assert result.exit_code == 2
    assert "spec.podOverlay.spec.nodeName: 'gpu-1'" in result.stderr
