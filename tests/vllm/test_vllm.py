"""Real models through real vLLM, Ray Data and the driver, on the CPU.

The chat model's weights are random and its text is gibberish, but made as any model makes it; the embedding model is
the real all-MiniLM-L6-v2. GPUs are logical: they bound what Ray places.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from runkit import ROOT, commits, rows_of, run, session, watch

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # The worker lives in the engine's process: one start less.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
CORPUS = ROOT / "examples" / "data" / "jargon" / "part-1.jsonl"
SMALL = {"enforce_eager": True, "max_num_seqs": 16}
POOL = {"replicas": {"min": 1, "max": 2}, "resources": {"gpus": 1, "cpus": 0.5}}
SEED_POLICY = {"allocation": {"policy": "rayReservation", "reservationRatio": 0.5}}
KITTENS = {
    "cat": "a cat sat on the mat",
    "kitten": "a kitten is on the rug",
    "tax": "quarterly tax filing",
}
TOO_LONG = "too-long"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the models."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, str(Path(__file__).parent / "make_models.py"), str(folder)], check=True)
    return folder


def write_input(folder: Path, count: int) -> list[str]:
    """Write the first documents of the corpus, three short sentences and one text that no model here takes."""
    documents = [json.loads(line) for line in CORPUS.read_text().splitlines()[:count]]
    rows = [{"id": row["id"], "text": row["text"][:400]} for row in documents]
    rows += [{"id": name, "text": text} for name, text in KITTENS.items()]
    rows.insert(count // 2, {"id": TOO_LONG, "text": "far too long " * 1_000})
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row["id"] for row in rows]


def write_job(folder: Path, stages: list[dict[str, Any]], **changes: Any) -> Path:
    spec = {
        "input": {"uri": str(folder / "in.jsonl"), "format": "jsonl", "idField": "id"},
        "stages": stages,
        "output": {"uri": str(folder / "out")},
        "failurePolicy": {"maxErrorRate": 0.1},
        "shardRows": 5,
        **changes,
    }
    document = {"apiVersion": "llmbatch.dev/v1alpha1", "kind": "LLMBatchJob", "metadata": {"name": "t"}, "spec": spec}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def stage(name: str, model: Path, prompt: dict[str, str], **changes: Any) -> dict[str, Any]:
    common = {"name": name, "engine": "vllm", "model": {"name": str(model)}, "prompt": prompt, "engineArgs": SMALL}
    return common | {"batchSize": 5, "resources": {"cpus": 0.5}} | changes


def comment_and_vector(models: Path, **changes: Any) -> list[dict[str, Any]]:
    """A generate stage at temperature 0 and an embed stage."""
    return [
        stage(
            "comment",
            models / "chat",
            {"system": "You are terse.", "user": "Comment: {{ text }}"},
            sampling={"maxTokens": 32},
            **changes,
        ),
        stage(
            "vector",
            models / "minilm",
            {"user": "{{ text }}"},
            task="embed",
            **changes | {"engineArgs": SMALL | {"dtype": "float32"}},
        ),
    ]


def cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))


def check_rows(rows: list[dict[str, Any]], ids: list[str]) -> dict[str, dict[str, Any]]:
    """Check what any run of `comment_and_vector` must give, and return the rows by id."""
    assert Counter(row["id"] for row in rows) == Counter(ids)
    found = {row["id"]: row for row in rows}
    bad = found.pop(TOO_LONG)
    assert bad["error_stage"] == "comment"
    assert "maximum context length" in bad["error"]
    assert bad["comment"] is None
    assert bad["vector"] is None
    for row in found.values():
        assert row["error"] is None, row
        assert row["comment"]
        assert row["comment_finish_reason"] in ("stop", "length")
        assert 0 < row["completion_tokens"] <= 32
        assert row["prompt_tokens"] > 10
        assert len(row["vector"]) == 384
    cat, kitten, tax = (found[name]["vector"] for name in KITTENS)
    assert cosine(cat, kitten) == pytest.approx(0.59, abs=0.02)
    assert cosine(cat, tax) == pytest.approx(0.04, abs=0.02)
    return found


def logical_gpus(folder: Path, count: int) -> list[str]:
    """Return the arguments of a run on one node with so many logical GPUs."""
    trace = folder / "trace.csv"
    trace.write_text("time_seconds,nodes\n0,1\n")
    return ["--capacity", str(trace), "--gpus-per-node", str(count)]


@pytest.fixture(scope="module")
def two_chained(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[dict[str, Any]]]:
    """The ids of the input, and the rows that an undisturbed run of two chained stages on two logical GPUs gives."""
    folder = tmp_path_factory.mktemp("two-chained")
    ids = write_input(folder, 60)
    job = write_job(folder, comment_and_vector(models, **POOL), **SEED_POLICY)
    code, last = run(job, folder / "out", *logical_gpus(folder, 2), env=ENVIRONMENT)
    assert code == 0, last
    return ids, rows_of(folder / "out")


def test_two_chained_processors_with_fewer_gpus_than_the_sum_of_maxima_starve_nobody(
    two_chained: tuple[list[str], list[dict[str, Any]]],
) -> None:
    ids, rows = two_chained
    check_rows(rows, ids)


def end_one_engine(leader: int) -> None:
    """Kill one vLLM engine of a session: the process beside the replica that runs the model."""
    for pid in session(leader):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                return
    raise AssertionError("no engine process found")


def test_a_killed_driver_and_a_dead_engine_lose_and_double_nothing(
    models: Path, tmp_path: Path, two_chained: tuple[list[str], list[dict[str, Any]]]
) -> None:
    ids, expected = two_chained
    assert write_input(tmp_path, 60) == ids
    job, output = write_job(tmp_path, comment_and_vector(models)), tmp_path / "out"

    def kill_driver(pid: int, progress: dict[str, Any]) -> bool:
        if progress["shardsCommitted"] == 0:
            return False
        os.kill(pid, signal.SIGKILL)
        return True

    code, _ = watch(job, output, kill_driver, env=ENVIRONMENT)
    assert code == -signal.SIGKILL
    before = commits(output)
    assert 0 < len(before) < len(ids) / 5

    def kill_engine(pid: int, progress: dict[str, Any]) -> bool:
        if progress["shardsCommitted"] <= len(before):  # the earlier ones are read beside the start
            return False
        end_one_engine(pid)
        return True

    code, last = watch(job, output, kill_engine, env=ENVIRONMENT)
    assert code == 0, last
    assert last["progress"]["shardsSkipped"] == len(before)
    after = commits(output)
    assert {name: after[name] for name in before} == before
    found, undisturbed = check_rows(rows_of(output), ids), check_rows(expected, ids)
    # Temperature 0: another run, in other batches, gives the same text.
    assert {id_: row["comment"] for id_, row in found.items()} == {id_: undisturbed[id_]["comment"] for id_ in found}


SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}
QUERY = "what is a computer"


def test_three_chained_processors_with_fewer_gpus_than_the_sum_of_maxima_starve_nobody(
    models: Path, tmp_path: Path
) -> None:
    ids = write_input(tmp_path, 20)
    float32 = {"engineArgs": SMALL | {"dtype": "float32"}} | POOL
    job = write_job(
        tmp_path,
        [
            stage(
                "mood",
                models / "chat",
                {"user": "Judge: {{ text }}"},
                sampling={"maxTokens": 64, "temperature": 0.9, "seed": 3, "jsonSchema": SCHEMA},
                # A seeded request in parts ends vLLM on the CPU, and with GPUs that are none it cannot know.
                **POOL | {"engineArgs": SMALL | {"enable_chunked_prefill": False}},
            ),
            stage("label", models / "judge", {"user": "{{ text }}"}, task="classify", **float32),
            stage("fit", models / "reranker", {"user": "{{ text }}", "query": QUERY}, task="score", **float32),
        ],
        **SEED_POLICY,
    )
    code, last = run(job, tmp_path / "out", *logical_gpus(tmp_path, 3), env=ENVIRONMENT)
    assert code == 0, last
    rows = rows_of(tmp_path / "out")
    assert Counter(row["id"] for row in rows) == Counter(ids)
    well = [row for row in rows if row["error"] is None]
    assert [row["id"] for row in rows if row["error"] is not None] == [TOO_LONG]
    for row in well:
        jsonschema.validate(json.loads(row["mood"]), SCHEMA)
    assert len({row["mood"] for row in well}) > 1, "seeds differ from row to row"
    texts = {row["id"]: row["text"] for row in map(json.loads, (tmp_path / "in.jsonl").read_text().splitlines())}
    for row in well[:5]:
        assert row["label"] == pytest.approx(transformers_label(models / "judge", texts[row["id"]]), abs=1e-3)
        assert row["fit"] == pytest.approx(transformers_score(models / "reranker", texts[row["id"]]), abs=1e-3)


def transformers_label(model: Path, text: str) -> list[float]:
    logits = transformers_logits(model, text)
    return [math.exp(value) / sum(math.exp(other) for other in logits) for value in logits]


def transformers_score(model: Path, text: str) -> float:
    [logit] = transformers_logits(model, QUERY, text)
    return 1 / (1 + math.exp(-logit))


def transformers_logits(model: Path, *texts: str) -> list[float]:
    """What the model says, run by transformers itself."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(model)(*texts, return_tensors="pt")
    with torch.no_grad():
        logits = AutoModelForSequenceClassification.from_pretrained(model)(**tokens).logits
    return [float(value) for value in logits[0]]
