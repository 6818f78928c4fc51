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

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

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

_WORD_OF_BYTE = pa.array([WORDS[byte % len(WORDS)] for byte in range(256)])


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
        digests = self._digests(requests)
        outputs = self._outputs(digests, list(map(_prompt_tokens, requests)))
        return self._with_failures(digests, outputs) if self._fails_below else outputs

    def _digests(self, requests: Sequence[Request]) -> list[bytes]:
        stage, model, seeds = self._stage.name, self._model, self._seeds(requests)
        asked = [
            orjson.dumps((stage, model, seed, request.messages, request.query))
            for request, seed in zip(requests, seeds, strict=True)
        ]
        return [hashlib.blake2b(one).digest() for one in asked]

    def _seeds(self, requests: Sequence[Request]) -> list[int]:
        sampling = self._stage.sampling
        if not sampling.temperature:
            return [0] * len(requests)
        return [row_seed(sampling.seed or 0, request.row_id) for request in requests]

    def _with_failures(
        self, digests: Sequence[bytes], outputs: Sequence[StageOutput | RowError]
    ) -> list[StageOutput | RowError]:
        error = RowError(self._stage.name, "SimulatedError", "simulation.errorRate chose this row")
        # The last two bytes decide on failure, the first ones on the output: independent of each other.
        return [
            error if int.from_bytes(digest[-2:], "big") < self._fails_below else output
            for digest, output in zip(digests, outputs, strict=True)
        ]

    def _outputs(self, digests: Sequence[bytes], prompt_tokens: Sequence[int]) -> list[StageOutput | RowError]:
        sampling = self._stage.sampling
        if self._stage.task != "generate":
            return list(map(StageOutput, map(self._value, digests), prompt_tokens))
        if sampling.json_schema is None:
            texts, tokens, reasons = texts_of(digests, sampling.max_tokens)
        else:
            texts = [json.dumps(instance_of(sampling.json_schema, digest)) for digest in digests]
            tokens = [math.ceil(len(text) / CHARACTERS_A_TOKEN) for text in texts]
            reasons = ["stop"] * len(texts)
        return list(map(StageOutput, texts, prompt_tokens, tokens, reasons))

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


def _prompt_tokens(request: Request) -> int:
    characters = 0
    for message in request.messages:
        characters += len(str(message["content"]))
    return -(-characters // CHARACTERS_A_TOKEN)


def texts_of(digests: Sequence[bytes], max_tokens: int) -> tuple[list[str], list[int], list[str]]:
    """Return a text of words for each digest, its number of words, and whether it came to its end (finish reason).

    The first byte of a digest says how many words there are, each of the next ones is a word.
    """
    chosen = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(len(digests), -1)
    wanted = 4 + chosen[:, 0].astype(np.int32) % (MOST_WORDS - 4)
    counts = np.minimum(wanted, max_tokens)
    is_said = np.arange(MOST_WORDS) < counts[:, np.newaxis]
    words = _WORD_OF_BYTE.take(pa.array(chosen[:, 1 : MOST_WORDS + 1][is_said]))
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    texts = pc.binary_join(pa.ListArray.from_arrays(ends, words), " ")
    reasons = ["stop" if is_whole else "length" for is_whole in (counts == wanted).tolist()]
    return texts.to_pylist(), counts.tolist(), reasons


def instance_of(schema: dict[str, Any] | bool, digest: bytes) -> Any:
    """Return a value of the plain types of a JSON schema: enum, const, object, array, string, numbers, boolean."""
    if isinstance(schema, bool):
        return {}
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
    # A range may hold no whole number; then one beside it has to do.
    return low + digest[4] % max(1, high - low + 1)
