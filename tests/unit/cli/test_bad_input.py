"""What `llmbatch run` and `validate` say of bad input: field, value and what is allowed, and nothing is created."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from jobs import job
from llmbatch.cli.main import app

runner = CliRunner()


def written(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def document(folder: Path, **spec: Any) -> dict[str, Any]:
    whole = job(folder).to_wire()
    whole["spec"].update(spec)
    return whole


def refused(path: Path) -> str:
    result = runner.invoke(app, ["run", str(path)])
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"id": "1", "text": "x"}\n')
    return tmp_path


def test_an_empty_glob(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    said = refused(written(tmp_path, document(tmp_path)))
    assert "input.uri" in said
    assert "*.jsonl" in said
    assert not (tmp_path / "out").exists()


def test_a_missing_file(tmp_path: Path) -> None:
    spec = {"uri": f"{tmp_path}/absent.jsonl", "format": "jsonl"}
    assert "absent.jsonl" in refused(written(tmp_path, document(tmp_path, input=spec)))


def test_a_key_twice(rows: Path) -> None:
    path = written(rows, document(rows))
    path.write_text(path.read_text() + "kind: LLMBatchJob\n")
    assert "the key 'kind' is there twice" in refused(path)


def test_a_field_that_is_none(rows: Path) -> None:
    assert "spec.shardrows: '3': no such field" in refused(written(rows, document(rows, shardrows=3)))


def test_two_output_columns_of_one_name(rows: Path) -> None:
    prompt = {"user": "{{ text }}"}
    stages = [{"name": name, "engine": "simulated", "prompt": prompt} for name in ("a", "a_finish_reason")]
    said = refused(written(rows, document(rows, stages=stages)))
    assert "stages[].name: 'a_finish_reason': another output column has this name" in said
    assert not (rows / "out").exists()


def test_a_template_with_an_unknown_field(rows: Path) -> None:
    stages = [{"name": "s", "engine": "simulated", "prompt": {"user": "{{ txt }}"}}]
    said = refused(written(rows, document(rows, stages=stages)))
    assert "spec.stages[0].prompt.user: 'txt': unknown field; known: id, text" in said
    assert not (rows / "out").exists()


def test_an_engine_that_is_not_in_this_version(rows: Path) -> None:
    stages = [{"name": "s", "engine": "sglang", "model": {"name": "m"}, "prompt": {"user": "{{ text }}"}}]
    assert "spec.stages[0].engine: 'sglang'" in refused(written(rows, document(rows, stages=stages)))


def test_an_output_of_another_spec(rows: Path) -> None:
    (rows / "out").mkdir()
    (rows / "out" / "_SPEC").write_text(
        json.dumps({"specHash": "0" * 16, "job": "local/other", "startedAt": "2026-01-01T00:00:00Z"})
    )
    said = refused(written(rows, document(rows)))
    assert "output.uri" in said
    assert "local/other" in said


def test_an_output_below_a_file(rows: Path) -> None:
    (rows / "file").write_text("")
    assert "output.uri" in refused(written(rows, document(rows, output={"uri": f"{rows}/file/out"})))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages": []}, "spec.stages: "),
        ({"shardRows": 0}, "spec.shardRows: '0': "),
        ({"shardRows": "16"}, "spec.shardRows: '16': "),
        ({"suspend": "no"}, "spec.suspend: 'no': "),
        ({"failurePolicy": {"maxErrorRate": "0.1"}}, "spec.failurePolicy.maxErrorRate: '0.1': "),
        ({"unknown": 1}, "spec.unknown: '1': "),
        (
            {"stages": [{"name": "s", "engine": "tgi", "prompt": {"user": "x"}}]},
            "spec.stages[0].engine: 'tgi': Input should be 'vllm', 'sglang', 'openai' or 'simulated'",
        ),
        ({"input": {"uri": "x", "format": "xml"}}, "spec.input.format: 'xml': "),
    ],
)
def test_validate_names_field_and_value(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    result = runner.invoke(app, ["validate", str(written(tmp_path, document(tmp_path, **change)))])
    assert result.exit_code == 2
    assert said in result.output


def test_validate_passes_over_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text("kind: ConfigMap\n---\n" + yaml.safe_dump(document(tmp_path)))
    result = runner.invoke(app, ["validate", str(path)])
    assert (result.exit_code, "1 valid" in result.output) == (0, True)


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("a: [")
    assert "must be YAML or JSON" in refused(path)


@pytest.mark.parametrize("number", ["1e-2", "1.0e-2", "+1E-02", "1", "0", ".5"])
def test_numbers_are_read_as_kubectl_reads_them(tmp_path: Path, number: str) -> None:
    path = written(tmp_path, document(tmp_path, failurePolicy={"maxErrorRate": "PLACE"}))
    path.write_text(path.read_text().replace("PLACE", number))
    result = runner.invoke(app, ["validate", str(path)])
    assert (result.exit_code, "1 valid" in result.output) == (0, True), result.output
