import json
import math
from typing import Any

import jsonschema
import pytest

from jobs import stage
from llmbatch.runtime.engines.simulated import Simulated
from llmbatch.runtime.prompts import Request
from llmbatch.runtime.rows import RowError, StageOutput


def ask(text: str, row_id: str = "a") -> Request:
    return Request(row_id, ({"role": "user", "content": text},), text)


def engine(**changes: Any) -> Simulated:
    return Simulated(stage(**changes), sleep=lambda seconds: None)


def test_one_prompt_gives_one_text_at_temperature_zero() -> None:
    first, second, other = engine().run([ask("x", "a"), ask("x", "b"), ask("y", "a")])
    assert first == second != other


def test_the_text_of_a_prompt_stays_the_same_from_version_to_version() -> None:
    whole, cut = engine().run([ask("x")]) + engine(sampling={"maxTokens": 3}).run([ask("x")])
    text = "are summary can more writer from lease to corpus as a queue is from from of worker queue model for"
    assert whole == StageOutput(text, 1, 20, "stop")
    assert cut == StageOutput("are summary can", 1, 3, "length")


def test_a_row_that_runs_twice_samples_the_same_text() -> None:
    warm = {"sampling": {"temperature": 0.8, "seed": 7}}
    [first, other] = engine(**warm).run([ask("x", "a"), ask("x", "b")])
    assert engine(**warm).run([ask("x", "a")]) == [first]
    assert first != other


def test_max_tokens_cuts_the_text() -> None:
    [cut] = engine(sampling={"maxTokens": 2}).run([ask("x")])
    assert isinstance(cut, StageOutput)
    assert (len(cut.value.split()), cut.completion_tokens, cut.finish_reason) == (2, 2, "length")


def test_time_is_the_model_of_the_spec() -> None:
    slept: list[float] = []
    replica = Simulated(stage(simulation={"secondsPerRow": 0.5, "loadSeconds": 3}), sleep=slept.append)
    replica.run([ask("x"), ask("y")])
    assert slept == [3, 1.0]


def test_structured_output_follows_its_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "score": {"type": "integer", "minimum": 1, "maximum": 5},
            "label": {"enum": ["good", "bad"]},
            "tags": {"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 2},
        },
        "required": ["score", "label", "tags"],
    }
    for answer in engine(sampling={"jsonSchema": schema}).run([ask(str(number)) for number in range(50)]):
        assert isinstance(answer, StageOutput)
        jsonschema.validate(json.loads(answer.value), schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"anything": True}},
        {"type": "array", "items": False},
        {"type": "object", "properties": {"none": {"type": "integer", "minimum": 1.5, "maximum": 1.9}}},
    ],
)
def test_a_schema_that_says_little_fails_no_row(schema: dict[str, Any]) -> None:
    [answer] = engine(sampling={"jsonSchema": schema}).run([ask("x")])
    assert isinstance(answer, StageOutput)


@pytest.mark.parametrize(("task", "extra"), [("embed", {}), ("classify", {})])
def test_vectors_are_normalised(task: str, extra: dict[str, Any]) -> None:
    [answer] = engine(task=task, **extra).run([ask("x")])
    assert isinstance(answer, StageOutput)
    norm = sum(v * v for v in answer.value) if task == "embed" else sum(answer.value)
    assert math.isclose(norm, 1.0)


def test_about_the_asked_share_of_rows_fails() -> None:
    answers = engine(simulation={"errorRate": 0.25}).run([ask(str(number)) for number in range(2000)])
    failed = sum(isinstance(answer, RowError) for answer in answers)
    assert 430 <= failed <= 570  # four standard deviations of a binomial around 500
