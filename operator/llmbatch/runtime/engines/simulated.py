"""An engine without a model: its outputs are made from a hash of the prompt, its time from two numbers.

It stands in for a model where none can run: in the quickstart, in tests and when capacity is what is tried. A
token is four characters of prompt and one word of output.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from llmbatch.api.job import Stage
from llmbatch.runtime.engines.base import row_seed
from llmbatch.runtime.prompts import Request
from llmbatch.runtime.rows import RowError, StageOutput

MOST_WORDS = 32
CHARACTERS_A_TOKEN = 4
CLASSES = 3
WORDS = [
    "a",
    "of",
    "the",
    "and",
    "to",
    "in",
    "is",
    "that",
    "it",
    "for",
    "as",
    "with",
    "on",
    "be",
    "by",
    "this",
    "are",
    "from",
    "or",
    "an",
    "which",
    "one",
    "all",
    "has",
    "when",
    "more",
    "can",
    "some",
    "row",
    "shard",
    "batch",
    "stage",
    "model",
    "token",
    "prompt",
    "answer",
    "summary",
    "corpus",
    "reader",
    "writer",
    "queue",
    "worker",
    "node",
    "lease",
    "commit",
]

_WORD_OF_BYTE = [WORDS[byte % len(WORDS)] for byte in range(256)]


class Simulated:
    """Deterministic text, vectors and numbers."""

    def __init__(self, stage: Stage, sleep: Callable[[float], None] = time.sleep) -> None:
        self._stage = stage
        self._model = stage.model.name if stage.model else ""
        self._fails_below = stage.simulation.error_rate * 65_536
        self._sleep = sleep
        sleep(stage.simulation.load_seconds)

    def run(self, requests: Sequence[Request]) -> list[StageOutput | RowError]:
        """Answer a batch, in `secondsPerRow` a row."""
        # A sleep of 0 still gives the core away.
        if seconds := self._stage.simulation.seconds_per_row * len(requests):
            self._sleep(seconds)
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> StageOutput | RowError:
        stage = self._stage
        digest = self._digest(request)
        # The last two bytes decide on failure, the first ones on the output: independent of each other.
        if self._fails_below and int.from_bytes(digest[-2:], "big") < self._fails_below:
            return RowError(stage.name, "SimulatedError", "simulation.errorRate chose this row")
        characters = 0
        for message in request.messages:
            characters += len(str(message["content"]))
        prompt_tokens = -(-characters // CHARACTERS_A_TOKEN)
        if stage.task == "generate":
            return self._generate(digest, prompt_tokens)
        return StageOutput(self._value(digest), prompt_tokens)

    def _digest(self, request: Request) -> bytes:
        sampling = self._stage.sampling
        seed = row_seed(sampling.seed or 0, request.row_id) if sampling.temperature else 0
        asked = orjson.dumps((self._stage.name, self._model, seed, request.messages, request.query))
        return hashlib.blake2b(asked).digest()

    def _generate(self, digest: bytes, prompt_tokens: int) -> StageOutput:
        sampling = self._stage.sampling
        if sampling.json_schema is not None:
            text = json.dumps(instance_of(sampling.json_schema, digest))
            return StageOutput(text, prompt_tokens, math.ceil(len(text) / CHARACTERS_A_TOKEN), "stop")
        wanted = 4 + digest[0] % (MOST_WORDS - 4)
        count = min(wanted, sampling.max_tokens)
        words = " ".join([_WORD_OF_BYTE[byte] for byte in digest[1 : count + 1]])
        return StageOutput(words, prompt_tokens, count, "stop" if count == wanted else "length")

    def _value(self, digest: bytes) -> Any:
        draw = random.Random(digest)  # noqa: S311 - a reproducible stand-in, not a secret
        if self._stage.task == "score":
            return draw.random()
        if self._stage.task == "classify":
            weights = [draw.random() for _ in range(CLASSES)]
            return [weight / sum(weights) for weight in weights]
        vector = [draw.gauss(0, 1) for _ in range(self._stage.simulation.dimensions)]
        length = math.sqrt(sum(value * value for value in vector))
        return [value / length for value in vector]


def instance_of(schema: dict[str, Any], digest: bytes) -> Any:
    """Return a value of the plain types of a JSON schema: enum, const, object, array, string, numbers, boolean."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][digest[1] % len(schema["enum"])]
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    makers: dict[str, Callable[[], Any]] = {
        "object": lambda: {
            name: instance_of(part, hashlib.blake2b(digest + name.encode(), digest_size=16).digest())
            for name, part in schema.get("properties", {}).items()
        },
        "array": lambda: [instance_of(schema.get("items", {}), digest)] * max(1, schema.get("minItems", 1)),
        "string": lambda: WORDS[digest[2] % len(WORDS)].ljust(schema.get("minLength", 0), "x"),
        "integer": lambda: _number(schema, digest),
        "number": lambda: float(_number(schema, digest)),
        "boolean": lambda: bool(digest[3] % 2),
        "null": lambda: None,
    }
    return makers[kind]()


def _number(schema: dict[str, Any], digest: bytes) -> int:
    low: int = math.ceil(schema.get("minimum", 0))
    high: int = math.floor(schema.get("maximum", low + 9))
    return low + digest[4] % int(high - low + 1)
