"""Any OpenAI-compatible HTTP endpoint: a service, or a server of one's own.

The official client makes the requests and retries 408, 409, 429 and 5xx with backoff and the server's
Retry-After; aiolimiter keeps the rate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, cast

import openai
from aiolimiter import AsyncLimiter

from llmbatch.api.job import Stage
from llmbatch.errors import SpecError
from llmbatch.runtime.engines.base import api_key, row_seed
from llmbatch.runtime.prompts import Request
from llmbatch.runtime.rows import RowError, StageOutput


class Http:
    """One client with its rate limit."""

    def __init__(self, stage: Stage) -> None:
        if stage.endpoint is None or stage.model is None:
            raise SpecError.of(f"stage {stage.name}", stage.engine, "needs endpoint and model")
        self._stage = stage
        self._model = stage.model.name
        endpoint = stage.endpoint
        self._timeout = endpoint.timeout_seconds
        self._loop = asyncio.Runner()
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.url,
            api_key=api_key(endpoint),
            timeout=self._timeout,
            max_retries=endpoint.max_retries,
        )
        self._gate = asyncio.Semaphore(endpoint.max_concurrency)
        per_minute = endpoint.requests_per_minute
        self._limiter = AsyncLimiter(per_minute, 60) if per_minute else None

    def run(self, requests: Sequence[Request]) -> list[StageOutput | RowError]:
        """Answer a batch, `maxConcurrency` requests at a time."""
        return self._loop.run(self._gather([self._one(request) for request in requests]))

    def close(self) -> None:
        """Close the connections."""
        self._loop.run(self._client.close())
        self._loop.close()

    async def _gather(
        self, calls: Sequence[Coroutine[Any, Any, StageOutput | RowError]]
    ) -> list[StageOutput | RowError]:
        return await asyncio.gather(*calls)

    async def _one(self, request: Request) -> StageOutput | RowError:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._gate)
            if self._limiter is not None:
                await stack.enter_async_context(self._limiter)
            try:
                return await self._ask(request)
            except openai.APIStatusError as error:
                if error.status_code in (401, 403, 404):
                    raise SpecError.of(
                        "endpoint.url",
                        str(self._client.base_url),
                        f"answered {error.status_code}: check key and model",
                    ) from error
                return RowError(self._stage.name, f"Http{error.status_code}", error.message[:500])
            except openai.APITimeoutError:
                # Each further attempt would wait for this row as well.
                return RowError(self._stage.name, "Timeout", f"no answer within {self._timeout:g} s")
            except ValueError as error:
                return RowError(self._stage.name, "BadAnswer", str(error)[:500])

    async def _ask(self, request: Request) -> StageOutput:
        if self._stage.task == "embed":
            found = await self._client.embeddings.create(model=self._model, input=request.text, encoding_format="float")
            return StageOutput(found.data[0].embedding, found.usage.prompt_tokens)
        answer = await self._client.chat.completions.create(
            model=self._model, messages=cast("Any", request.messages), **self._parameters(request)
        )
        if not answer.choices:
            raise ValueError("the endpoint answered without a choice")
        choice = answer.choices[0]
        usage = answer.usage
        return StageOutput(
            choice.message.content or "",
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
            choice.finish_reason or "",
        )

    def _parameters(self, request: Request) -> dict[str, Any]:
        sampling = self._stage.sampling
        chosen: dict[str, Any] = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "stop": list(sampling.stop) or None,
            "seed": None if sampling.seed is None else row_seed(sampling.seed, request.row_id),
        }
        extra = {"top_k": sampling.top_k, "min_p": sampling.min_p, **self._stage.engine_args}
        chosen["extra_body"] = {name: value for name, value in extra.items() if value is not None}
        if sampling.json_schema is not None:
            schema = {"name": self._stage.name, "schema": sampling.json_schema, "strict": True}
            chosen["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {name: value for name, value in chosen.items() if value is not None}
