"""vLLM: what `ray.data.llm` is told of a stage, and how a row is asked and answered."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
from collections.abc import AsyncIterator
from typing import Any

from llmbatch.api.job import Stage
from llmbatch.errors import SpecError
from llmbatch.runtime.engines.base import ask_messages, row_seed
from llmbatch.runtime.prompts import Request
from llmbatch.runtime.rows import RowError, StageOutput

logger = logging.getLogger(__name__)

OURS = ("chat_template_kwargs",)
"""Keys of `engineArgs` that go to the chat template, as in vLLM's server, and not to the engine."""


def engine_arguments(stage: Stage) -> dict[str, Any]:
    """Return what vLLM's engine is made with: the stage's `engineArgs`, and what its other fields say."""
    arguments = {name: value for name, value in stage.engine_args.items() if name not in OURS}
    if stage.resources.gpus > 1 and "pipeline_parallel_size" not in arguments:
        arguments.setdefault("tensor_parallel_size", stage.resources.gpus)
    # Ray Data sees no GPU of a replica whose executor is Ray, and its placement groups outlive it.
    arguments.setdefault("distributed_executor_backend", "mp" if parallel_gpus(arguments) > 1 else "uni")
    if stage.resources.gpus == 0 and stage.sampling.seed is not None:
        # On a CPU, vLLM (0.32) dies of a seeded request whose prompt it takes in parts.
        arguments.setdefault("enable_chunked_prefill", False)
    if stage.model is not None and stage.model.revision is not None:
        arguments["revision"] = stage.model.revision
    if stage.model is not None and stage.model.trust_remote_code:
        arguments["trust_remote_code"] = True
    return arguments


def parallel_gpus(arguments: dict[str, Any]) -> int:
    """Return how many GPUs an engine with these arguments spreads over.

    Raises:
        SpecError: a size is no number of GPUs.
    """
    return _size(arguments, "tensor_parallel_size") * _size(arguments, "pipeline_parallel_size")


def _size(arguments: dict[str, Any], name: str) -> int:
    size = arguments.get(name, 1)
    if type(size) is not int or size < 1:
        raise SpecError.of(f"engineArgs.{name}", size, "must be a whole number, at least 1")
    return size


def processor_config(stage: Stage, batch_rows: int, bounds: tuple[int, int], concurrent_blocks: int) -> Any:
    """Return the processor's config.

    Args:
        stage: The stage.
        batch_rows: Rows of a batch.
        bounds: Least and most replicas.
        concurrent_blocks: Blocks a replica works on at a time.
    """
    from ray.data.llm import vLLMEngineProcessorConfig

    return vLLMEngineProcessorConfig(
        model_source=stage.model.name if stage.model else "",
        engine_kwargs=engine_arguments(stage),
        # vLLM has no task `score` any more: a reranker classifies a pair.
        task_type="classify" if stage.task == "score" else stage.task,
        batch_size=batch_rows,
        concurrency=bounds,
        max_concurrent_batches=concurrent_blocks,
        accelerator_type=stage.resources.accelerator,
        should_continue_on_error=True,
        # vLLM's exporter for Ray imports ray.serve.
        log_engine_metrics=importlib.util.find_spec("grpc_reflection") is not None,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )


class Vllm:
    """One vLLM engine."""

    def __init__(self, stage: Stage, engine: Any) -> None:
        """Answer with `engine`, a loaded `vllm.AsyncLLM`."""
        self._stage = stage
        self._engine = engine
        self._numbers = itertools.count()
        self._answered = False
        self._ask = {
            "generate": self._generate,
            "embed": self._pool,
            "classify": self._pool,
            "score": self._score,
        }[stage.task]

    async def answer(self, request: Request) -> StageOutput | RowError:
        """Answer one request. A dead engine ends the process: Ray starts the replica anew and runs its rows again.

        Raises:
            SpecError: the engine died before it answered anything: another would as well.
        """
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            output = await self._ask(request)
        except EngineDeadError as error:
            if not self._answered:
                raise SpecError.of(
                    f"stage {self._stage.name}: engine",
                    "vllm",
                    "died of its first requests: its log, below Ray's session folder, says why; change engineArgs",
                ) from error
            # A task that is tried again comes back to this actor, so it must go, and not by an exception.
            logger.exception("stage %s: the vLLM engine died, its replica starts anew", self._stage.name)
            os._exit(1)
        except VLLMClientError as error:
            return RowError(self._stage.name, _code(error), str(error)[:500])
        except (ValueError, EngineGenerateError) as error:
            cause = error.__cause__ or error
            return RowError(self._stage.name, type(cause).__name__, str(cause)[:500])
        self._answered = True
        return output

    async def _generate(self, request: Request) -> StageOutput:
        from vllm.inputs import TokensPrompt

        token_ids = ask_messages(self._engine.get_tokenizer(), request, self._stage.engine_args)
        prompt = TokensPrompt(prompt_token_ids=token_ids)
        output = await _last(self._engine.generate(prompt, self._sampling(request), self._next_id()))
        text = output.outputs[0]
        return StageOutput(text.text, len(output.prompt_token_ids), len(text.token_ids), text.finish_reason or "")

    async def _pool(self, request: Request) -> StageOutput:
        from vllm.inputs import TextPrompt

        from vllm import PoolingParams

        params = PoolingParams(task=self._stage.task)
        output = await _last(self._engine.encode(TextPrompt(prompt=request.text), params, self._next_id()))
        return StageOutput(output.outputs.data.float().tolist(), len(output.prompt_token_ids))

    async def _score(self, request: Request) -> StageOutput:
        """Ask a reranker about the pair of query and text, as vLLM's own `LLM.score` does."""
        from vllm.inputs import TokensPrompt

        from vllm import PoolingParams

        tokenizer = self._engine.get_tokenizer()
        extra = None
        if self._engine.model_config.use_sep_token:
            pair = tokenizer(request.query, text_pair=request.text)
            kinds = pair.get("token_type_ids")
            if kinds and 1 in kinds:
                extra = {"compressed_token_type_ids": kinds.index(1)}
        else:
            pair = tokenizer(request.query + request.text)
        params = PoolingParams(task="classify", extra_kwargs=extra)
        prompt = TokensPrompt(prompt_token_ids=pair["input_ids"])
        output = await _last(self._engine.encode(prompt, params, self._next_id()))
        scores = output.outputs.data.float().flatten().tolist()
        if len(scores) != 1:
            raise ValueError(f"task score needs a reranker with one label, this model has {len(scores)}: use classify")
        return StageOutput(scores[0], len(output.prompt_token_ids))

    def _sampling(self, request: Request) -> Any:
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        from vllm import SamplingParams

        sampling = self._stage.sampling
        chosen = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "stop": list(sampling.stop) or None,
            "seed": None if sampling.seed is None else row_seed(sampling.seed, request.row_id),
        }
        if sampling.json_schema is not None:
            chosen["structured_outputs"] = StructuredOutputsParams(json=sampling.json_schema)
        well = {name: value for name, value in chosen.items() if value is not None}
        return SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **well)

    def _next_id(self) -> str:
        return str(next(self._numbers))


async def _last(outputs: AsyncIterator[Any]) -> Any:
    async for output in outputs:
        if output.finished:
            return output
    raise ValueError("vLLM ended a request without an output")


def _code(error: Exception) -> str:
    return "ContextLengthExceeded" if "maximum context length" in str(error) else "InvalidRequest"
