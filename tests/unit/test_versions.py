"""Operator and runtime of different versions: what each takes of what the other writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from controllerkit import SETTINGS, UID, job, spec
from llmbatch.api.base import Items
from llmbatch.api.capacity import Capacity
from llmbatch.api.job import LLMBatchJobSpec, Stage
from llmbatch.api.progress import Progress
from llmbatch.api.runspec import RunSpec, spec_hash
from llmbatch.core.job.children import build_children
from llmbatch.core.job.children.support import run_spec_of
from llmbatch.runtime import serve

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


class LaterStage(Stage):
    """A stage of a later version."""

    novelty: int = 7
    """A field that this version does not know."""


class LaterSpec(LLMBatchJobSpec):
    """A spec of a later version."""

    stages: Items[LaterStage]  # type: ignore[assignment]
    """Its stages."""


class LaterRunSpec(RunSpec):
    """A RunSpec of a later version."""

    spec: LaterSpec
    """Its spec."""


def later(**stage: Any) -> LaterRunSpec:
    document = spec().to_wire()
    document["stages"][0] |= stage
    return LaterRunSpec(job="team/summarise", uid=UID, spec=LaterSpec.model_validate(document), spec_hash="0" * 16)


def test_what_a_later_progress_says_besides_is_left_out() -> None:
    said = {
        "state": "running",
        "novelty": 1,
        "rows": {"rowsCompleted": 5, "novelty": 2},
        "pools": [{"name": "a", "b": 1}],
    }
    seen = Progress.from_wire(json.dumps(said))
    assert (seen.state, seen.rows.rows_completed, seen.pools[0].name) == ("running", 5, "a")


def test_what_a_later_capacity_asks_besides_is_left_out() -> None:
    asked = {"sequence": 3, "novelty": 1, "doomed": [{"worker": "w0", "kind": "lost", "novelty": 2}]}
    assert Capacity.from_wire(asked).doomed[0].worker == "w0"


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_a_run_spec_says_all_without_its_defaults(file: Path) -> None:
    for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        if document["kind"] == "LLMBatchJob":
            made = run_spec_of(job(), LLMBatchJobSpec.model_validate(document["spec"]))
            assert RunSpec.model_validate_json(made.to_text()) == made


def test_an_earlier_runtime_runs_a_job_that_uses_nothing_new() -> None:
    text = later(novelty=7).to_text()
    assert RunSpec.model_validate_json(text).spec == spec()


def test_an_earlier_runtime_refuses_a_job_that_uses_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "runspec.json"
    file.write_text(later(novelty=8).to_text(), encoding="utf-8")
    monkeypatch.setenv(serve.TOKEN_ENV, "token")
    monkeypatch.setattr(serve, "LINGER_SECONDS", 0.0)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert serve.main(["--run-spec", str(file), "--port", "0"]) == serve.INVALID
    said = capsys.readouterr().err
    assert "novelty" in said
    assert "set spec.image to one of the operator's version" in said


def test_a_field_that_a_later_version_adds_leaves_the_output_where_it_is() -> None:
    assert spec_hash(later().spec) == spec_hash(spec())
    assert spec_hash(later(novelty=8).spec) != spec_hash(spec())


def test_the_run_spec_in_the_cluster_has_no_defaults() -> None:
    [text] = [
        child["data"]["runspec.json"]
        for child in build_children(job(), spec(), SETTINGS)
        if child["kind"] == "ConfigMap"
    ]
    assert "shardRows" not in text
