"""What can be known of a job's engines before anything is created."""

from __future__ import annotations

import jsonschema

from llmbatch.api.job import LLMBatchJobSpec, Stage
from llmbatch.errors import SpecError
from llmbatch.runtime.engines.http import api_key

SUPPORTED = ("openai", "simulated")
"""Engines of this version. vllm and sglang are part of the API and refused until they are in."""


def check_engines(spec: LLMBatchJobSpec) -> None:
    """Check every stage's engine.

    Raises:
        SpecError: an engine is not there, a key is not set, or a JSON schema is none.
    """
    for index, stage in enumerate(spec.stages):
        _check(f"spec.stages[{index}]", stage)


def _check(place: str, stage: Stage) -> None:
    if stage.engine not in SUPPORTED:
        raise SpecError.of(f"{place}.engine", stage.engine, f"this version runs {' and '.join(SUPPORTED)}")
    if stage.endpoint is not None:
        api_key(stage.endpoint)
    schema = stage.sampling.json_schema
    if schema is not None:
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise SpecError.of(f"{place}.sampling.jsonSchema", error.instance, error.message) from error
