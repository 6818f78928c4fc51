"""The spec hash decides whether a changed job may go on in the same output."""

from typing import Any

import pytest

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.api.runspec import spec_hash

SPEC: dict[str, Any] = {
    "input": {"uri": "in/*.jsonl", "format": "jsonl"},
    "stages": [{"name": "say", "engine": "simulated", "prompt": {"user": "{{ text }}"}}],
    "output": {"uri": "out/"},
}


def changed(section: str, **values: Any) -> LLMBatchJobSpec:
    if section == "stages":
        return LLMBatchJobSpec.model_validate({**SPEC, "stages": [{**SPEC["stages"][0], **values}]})
    if section == "spec":
        return LLMBatchJobSpec.model_validate({**SPEC, **values})
    return LLMBatchJobSpec.model_validate({**SPEC, section: {**SPEC[section], **values}})


BASE = spec_hash(LLMBatchJobSpec.model_validate(SPEC))


@pytest.mark.parametrize(
    "spec",
    [
        changed("stages", replicas={"max": 8}),
        changed("stages", resources={"gpus": 2}),
        changed("stages", batchSize=7),
        changed("stages", simulation={"secondsPerRow": 1.5}),
        changed("output", uri="elsewhere/"),
        changed("input", uniqueIds="trust"),
        changed("spec", suspend=True),
    ],
)
def test_a_job_may_move_and_scale(spec: LLMBatchJobSpec) -> None:
    assert spec_hash(spec) == BASE


@pytest.mark.parametrize(
    "spec",
    [
        changed("stages", prompt={"user": "{{ title }}"}),
        changed("stages", sampling={"maxTokens": 7}),
        changed("stages", simulation={"errorRate": 0.5}),
        changed("input", uri="in2/*.jsonl"),
        changed("output", format="jsonl"),
        changed("spec", shardRows=7),
    ],
)
def test_what_decides_the_output_changes_the_hash(spec: LLMBatchJobSpec) -> None:
    assert spec_hash(spec) != BASE
