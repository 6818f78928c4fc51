"""Specs that both judges of a job must see alike: the pydantic models and the API server with our CRD."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

STAGE: dict[str, Any] = {"name": "say", "engine": "simulated", "prompt": {"user": "Say: {{ text }}"}}
SECOND: dict[str, Any] = {**STAGE, "name": "judge"}
ENDPOINT = {"url": "http://localhost:8000/v1"}
SPEC: dict[str, Any] = {
    "input": {"uri": "in/*.jsonl", "format": "jsonl", "idField": "id"},
    "stages": [STAGE, SECOND],
    "output": {"uri": "out/"},
    "shardRows": 16,
}


@dataclass(frozen=True)
class Refused:
    """A change of SPEC that must be refused, and the field that the refusal must name."""

    field: str
    change: dict[str, Any]
    says: str = ""

    def __str__(self) -> str:
        return f"{self.field}-{self.says or next(iter(self.change))}".replace(" ", "_")[:60]


def stage(**change: Any) -> dict[str, Any]:
    """Return the change of SPEC that makes its first stage the plain one with `change`; None removes a field."""
    changed = {key: value for key, value in {**STAGE, **change}.items() if value is not None}
    return {"stages": [changed, SECOND]}


def spec(change: dict[str, Any]) -> dict[str, Any]:
    """Return SPEC with top-level fields replaced; None removes one."""
    return {key: value for key, value in deepcopy({**SPEC, **change}).items() if value is not None}


ACCEPTED: dict[str, dict[str, Any]] = {
    "the plain spec": {},
    "one stage": {"stages": [STAGE]},
    "eight stages": {"stages": [{**STAGE, "name": f"s{i}"} for i in range(8)]},
    "a vllm stage": stage(engine="vllm", model={"name": "Qwen/Qwen3-8B"}, resources={"gpus": 1}),
    "an endpoint": stage(engine="openai", model={"name": "m"}, endpoint=ENDPOINT),
    "an endpoint without a key": stage(engine="openai", model={"name": "m"}, endpoint={**ENDPOINT, "apiKeyEnv": None}),
    "a score stage": stage(engine="vllm", task="score", model={"name": "m"}, prompt={"user": "a", "query": "b"}),
    "messages of the row": stage(prompt={"messagesField": "messages"}),
    "a fixed pool": stage(replicas={"min": 4, "max": 4}),
    "any engine arguments": stage(engineArgs={"max_model_len": 4096, "nested": {"list": [1, "a", None]}}),
    "a schema of the text": stage(sampling={"jsonSchema": {"type": "object", "properties": {"a": {"enum": [1]}}}}),
    "openai in and out": {"input": {"uri": "a", "format": "openai"}, "output": {"uri": "b", "format": "openai"}},
    "spot and on demand": {
        "capacity": {
            "spot": {
                "max": 16,
                "nodeSelector": {"example.com/capacity": "spot"},
                "tolerations": [{"key": "example.com/spot", "operator": "Exists", "effect": "NoSchedule"}],
            },
            "onDemand": {"base": 1, "max": 4},
        }
    },
    "a budget": {"budget": {"maxCost": 100, "prices": {"spot": 0.5, "onDemand": 2}}},
    "an overlay of pods": {"podOverlay": {"spec": {"serviceAccountName": "reader", "volumes": [{"name": "x"}]}}},
}

REFUSED = [
    Refused("spec.input", {"input": None}),
    Refused("spec.input.uri", {"input": {"uri": "", "format": "jsonl"}}),
    Refused("spec.input.uri", {"input": {"uri": "u" * 1025, "format": "jsonl"}}, "1024"),
    Refused("spec.input.format", {"input": {"uri": "x", "format": "xml"}}),
    Refused("spec.stages", {"stages": []}),
    Refused("spec.stages", {"stages": [{**STAGE, "name": f"s{i}"} for i in range(9)]}, "8"),
    Refused("spec.stages", {"stages": [STAGE, STAGE]}, "stage names must be unique"),
    Refused("spec.stages[0].name", stage(name="Not_Lower")),
    Refused("spec.stages[0].name", stage(name="n" * 32), "31"),
    Refused("spec.stages[0].name", stage(name="prompt_tokens"), "reserved for an output column"),
    Refused("spec.stages[0].engine", stage(engine="tgi")),
    Refused("spec.stages[0]", stage(engine="vllm"), "model is required"),
    Refused("spec.stages[0]", stage(engine="openai", model={"name": "m"}), "endpoint is required by engine openai"),
    Refused("spec.stages[0]", stage(endpoint=ENDPOINT), "endpoint is required by engine openai and allowed only"),
    Refused("spec.stages[0]", stage(engine="sglang", model={"name": "m"}, task="embed"), "sglang runs task generate"),
    Refused(
        "spec.stages[0]", stage(engine="openai", model={"name": "m"}, endpoint=ENDPOINT, task="classify"), "openai runs"
    ),
    Refused("spec.stages[0]", stage(task="score"), "prompt.query is required by task score"),
    Refused("spec.stages[0]", stage(prompt={"user": "a", "query": "b"}), "allowed only there"),
    Refused("spec.stages[0].prompt", stage(prompt={}), "exactly one of user and messagesField"),
    Refused("spec.stages[0].prompt", stage(prompt={"user": "a", "messagesField": "m"}), "exactly one of user"),
    Refused("spec.stages[0].prompt", stage(prompt={"system": "a", "messagesField": "m"}), "system cannot be combined"),
    Refused("spec.stages[0].prompt.user", stage(prompt={"user": "u" * 32769})),
    Refused("spec.stages[0].sampling.temperature", stage(sampling={"temperature": 2.5})),
    Refused("spec.stages[0].sampling.topP", stage(sampling={"topP": 0})),
    Refused("spec.stages[0].replicas", stage(replicas={"min": 2}), "min must not exceed max"),
    Refused("spec.stages[0].resources.gpus", stage(resources={"gpus": 17})),
    Refused("spec.output.format", {"output": {"uri": "b", "format": "csv"}}),
    Refused(
        "spec",
        {"input": {"uri": "a", "format": "jsonl"}, "output": {"uri": "b", "format": "openai"}},
        "input.idField",
    ),
    Refused("spec.capacity.onDemand", {"capacity": {"onDemand": {"base": 2, "max": 1}}}, "base must not exceed max"),
    Refused("spec.failurePolicy.maxErrorRate", {"failurePolicy": {"maxErrorRate": 1.5}}),
    Refused("spec.shardRows", {"shardRows": 0}),
    Refused("spec.shardRows", {"shardRows": "16"}, "integer"),
    Refused("spec.suspend", {"suspend": "no"}, "boolean"),
    Refused("spec.budget.maxCost", {"budget": {"maxCost": 0, "prices": {"spot": 1, "onDemand": 2}}}),
    Refused("spec.budget.prices.onDemand", {"budget": {"maxCost": 1, "prices": {"spot": 1}}}),
    Refused("spec.shard_rows", {"shard_rows": 16}),
    Refused("spec.stages[0].endpoint.apiKey", stage(endpoint={**ENDPOINT, "apiKey": "x"})),
]

CHANGES_ALLOWED: dict[str, dict[str, Any]] = {
    "suspend": {"suspend": True},
    "capacity": {"capacity": {"spot": {"max": 3}}},
    "failure policy": {"failurePolicy": {"maxErrorRate": 0.5}},
    "allocation": {"allocation": {"policy": "stock"}},
    "deadline": {"activeDeadlineSeconds": 60},
    "budget": {"budget": {"maxCost": 1, "prices": {"spot": 1, "onDemand": 2}}},
}

CHANGES_REFUSED = [
    Refused("spec.input", {"input": {**SPEC["input"], "uri": "elsewhere/*.jsonl"}}),
    Refused("spec.input", {"input": {"uri": "in/*.jsonl", "format": "jsonl"}}, "immutable"),
    Refused("spec.stages", stage(prompt={"user": "Other: {{ text }}"}), "immutable"),
    Refused("spec.stages", {"stages": [SECOND, STAGE]}, "immutable"),
    Refused("spec.stages", {"stages": [STAGE]}, "immutable: create another job"),
    Refused("spec.stages", stage(engineArgs={"dtype": "float16"}), "immutable"),
    Refused("spec.stages", stage(sampling={"jsonSchema": {"type": "object"}}), "immutable"),
    Refused("spec.output", {"output": {"uri": "elsewhere/"}}),
    Refused("spec.shardRows", {"shardRows": 17}),
    Refused("spec.retryFailed", {"retryFailed": True}, "immutable"),
    Refused("spec.shardRows", {"shardRows": None}, "immutable"),
    Refused("spec.capacity.gpusPerWorker", {"capacity": {"gpusPerWorker": 1}}, "immutable: create another job"),
]
