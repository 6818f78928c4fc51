"""SGLang: what `ray.data.llm` is told of a stage, and how a row is asked and answered."""

from __future__ import annotations

import json
from typing import Any

from llmbatch.api.job import Stage
from llmbatch.runtime.engines.base import ask_messages, row_seed
from llmbatch.runtime.prompts import Request
from llmbatch.runtime.rows import RowError, StageOutput

OURS = ("chat_template_kwargs",)
"""Keys of `engineArgs` that go to the chat template and not to the engine."""


def engine_arguments(stage: Stage) -> dict[str, Any]:
    """Return what SGLang's engine is made with: the stage's `engineArgs`, and what its other fields say."""
    arguments = {name: value for name, value in stage.engine_args.items() if name not in OURS}
    if stage.resources.gpus > 1:
        arguments.setdefault("tp_size", stage.resources.gpus)
    # The engine turns text into tokens and back: stop strings need it anyway.
    arguments["skip_tokenizer_init"] = False
    if stage.model is not None and stage.model.revision is not None:
        arguments["revision"] = stage.model.revision
    if stage.model is not None and stage.model.trust_remote_code:
        arguments["trust_remote_code"] = True
    return arguments


def processor_config(stage: Stage, batch_rows: int, bounds: tuple[int, int], concurrent_blocks: int) -> Any:
    """Return the processor's config.

    Args:
        stage: The stage.
        batch_rows: Rows of a batch.
        bounds: Least and most replicas.
        concurrent_blocks: Blocks a replica works on at a time.
    """
    from ray.data.llm import SGLangEngineProcessorConfig

    return SGLangEngineProcessorConfig(
        model_source=stage.model.name if stage.model else "",
        engine_kwargs=engine_arguments(stage),
        batch_size=batch_rows,
        concurrency=bounds,
        max_concurrent_batches=concurrent_blocks,
        accelerator_type=stage.resources.accelerator,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )


class Sglang:
    """One SGLang engine."""

    def __init__(self, stage: Stage, engine: Any) -> None:
        """Answer with `engine`, a loaded `sglang.Engine`."""
        self._stage = stage
        self._engine = engine
        self._tokenizer = engine.tokenizer_manager.tokenizer

    async def answer(self, request: Request) -> StageOutput | RowError:
        """Answer one request."""
        try:
            token_ids = ask_messages(self._tokenizer, request, self._stage.engine_args)
            answer = await self._engine.async_generate(input_ids=token_ids, sampling_params=self._sampling(request))
        except ValueError as error:
            # SGLang says so of a request that it refuses, such as a prompt that is too long.
            return RowError(self._stage.name, "InvalidRequest", str(error)[:500])
        about = answer["meta_info"]
        reason = about["finish_reason"]
        if reason["type"] == "abort":
            return RowError(self._stage.name, "InvalidRequest", str(reason.get("message", "aborted"))[:500])
        return StageOutput(answer["text"], about["prompt_tokens"], about["completion_tokens"], reason["type"])

    def _sampling(self, request: Request) -> dict[str, Any]:
        sampling = self._stage.sampling
        chosen = {
            "max_new_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "stop": list(sampling.stop) or None,
            "sampling_seed": None if sampling.seed is None else row_seed(sampling.seed, request.row_id),
            "json_schema": None if sampling.json_schema is None else json.dumps(sampling.json_schema),
        }
        return {name: value for name, value in chosen.items() if value is not None}
