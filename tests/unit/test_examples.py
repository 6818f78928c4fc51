"""The examples a reader copies are valid, readable where they say, and small."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmbatch.api.job import LLMBatchJob, is_remote

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
JOBS = sorted(EXAMPLES.glob("*.yaml"))
LOCAL_JOBS = ["quickstart.yaml", "openai-batch.yaml", "embed.yaml"]


def load(path: Path) -> LLMBatchJob:
    return LLMBatchJob.model_validate(yaml.safe_load(path.read_text()))


def json_lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.splitlines()]


def corpus() -> list[dict[str, Any]]:
    return [row for path in sorted(EXAMPLES.glob("data/jargon/*.jsonl*")) for row in json_lines(path)]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_an_example_is_a_valid_job(path: Path) -> None:
    job = load(path)
    assert LLMBatchJob.model_validate(job.to_wire()) == job


@pytest.mark.parametrize("name", LOCAL_JOBS)
def test_a_local_example_needs_nothing_but_the_repository(name: str) -> None:
    spec = load(EXAMPLES / name).spec
    assert {stage.engine for stage in spec.stages} == {"simulated"}
    assert sum(stage.resources.gpus for stage in spec.stages) == 0
    assert sum(stage.resources.cpus * stage.replicas.max for stage in spec.stages) <= 1, "must fit two cores"
    assert spec.output.uri.startswith("out/")


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_local_input_exists(path: Path) -> None:
    uri = load(path).spec.input.uri
    assert is_remote(uri) or list(ROOT.glob(uri))


def test_jobs_have_outputs_of_their_own() -> None:
    uris = [load(path).spec.output.uri for path in JOBS]
    assert len(set(uris)) == len(uris)


def test_the_corpus_is_a_few_hundred_documents_with_unique_ids() -> None:
    rows = corpus()
    assert len(rows) == 360
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(set(row) == {"id", "title", "text"} and 200 <= len(row["text"]) <= 3000 for row in rows)


def test_the_csv_holds_the_same_rows() -> None:
    with (EXAMPLES / "data/jargon.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == corpus()


def test_the_requests_are_openai_batch_requests_over_the_corpus() -> None:
    requests = json_lines(EXAMPLES / "data/requests.jsonl")
    ids = [request["custom_id"] for request in requests]
    assert len(set(ids)) == len(ids) == 60
    assert set(ids) <= {row["id"] for row in corpus()}
    assert all(request["url"] == "/v1/chat/completions" for request in requests)
    assert all(request["body"]["messages"][-1]["role"] == "user" for request in requests)


def test_the_data_stays_small() -> None:
    size = sum(path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file())
    assert size < 1_000_000
