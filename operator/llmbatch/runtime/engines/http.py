"""Any OpenAI-compatible HTTP endpoint: a service, or a server of one's own.

The official client makes the requests and retries 408, 409, 429, 5xx and lost connections with backoff and the
server's Retry-After; aiolimiter keeps the rate. Its own models take any JSON for an answer, so they are left out: what
a server that is nearly compatible answers must be one row's error at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any, TypeVar, cast

import openai
from aiolimiter import AsyncLimiter
from pydantic import BaseModel, Field, ValidationError

from llmbatch.api.job import Stage
from llmbatch.errors import EndpointError, SpecError
from llmbatch.runtime.engines.base import api_key, row_seed
from llmbatch.runtime.prompts import Request
from llmbatch.runtime.rows import RowError, StageOutput

LOST, TIMEOUT = "ConnectionLost", "Timeout"
"""Codes of rows that got no answer, retries included: connections refused or lost, and the time over."""
BAD_ANSWER = "BadAnswer"
"""Code of rows whose answer cannot be used."""
REFUSED = ("Http403", "Http404")
"""Codes of rows that were refused: for the key, the model or the address, or for what stands in the prompt."""


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Answer(BaseModel):
    usage: _Usage | None = None

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens read and generated; 0 where the server does not say."""
        usage = self.usage or _Usage()
        return usage.prompt_tokens or 0, usage.completion_tokens or 0


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Chat(_Answer):
    choices: Annotated[list[_Choice], Field(min_length=1)]


class _Vector(BaseModel):
    embedding: list[float]


class _Embeddings(_Answer):
    data: Annotated[list[_Vector], Field(min_length=1)]


_Model = TypeVar("_Model", bound=_Answer)


class Http:
    """One client with its rate limit."""

    def __init__(self, stage: Stage) -> None:
        if stage.endpoint is None or stage.model is None:
            raise SpecError.of(f"stage {stage.name}", stage.engine, "needs endpoint and model")
        self._stage = stage
        self._model = stage.model.name
        endpoint = stage.endpoint
        self._timeout = endpoint.timeout_seconds
        self._answered = False
        """Whether the endpoint ever answered, be it with an error."""
        self._accepted = False
        """Whether it ever answered with a 2xx: key, model and address are right."""
        key = api_key(endpoint)
        self._secret = key if endpoint.api_key_env else ""
        self._loop = asyncio.Runner()
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.url,
            api_key=key,
            timeout=self._timeout,
            max_retries=endpoint.max_retries,
        )
        self._gate = asyncio.Semaphore(endpoint.max_concurrency)
        per_minute = endpoint.requests_per_minute
        self._limiter = AsyncLimiter(per_minute, 60) if per_minute else None

    def run(self, requests: Sequence[Request]) -> list[StageOutput | RowError]:
        """Answer a batch, `maxConcurrency` requests at a time.

        Raises:
            SpecError: the endpoint refuses the key, or has taken no request yet and knows no such model or address.
            EndpointError: nothing answered, neither now nor before. An address where nothing ever was is a mistake, or
                a server that is to come: no row is given up for it.
        """
        answers = self._loop.run(self._gather([self._one(request) for request in requests]))
        errors = {answer.code: answer for answer in answers if isinstance(answer, RowError)}
        is_taken = BAD_ANSWER in errors or any(isinstance(answer, StageOutput) for answer in answers)
        self._accepted = self._accepted or is_taken
        self._answered = self._answered or is_taken or not errors.keys() <= {LOST, TIMEOUT}
        if LOST in errors and not self._answered:
            raise EndpointError(f"endpoint.url: {str(self._client.base_url)!r}: no answer: {errors[LOST].message}")
        for code in REFUSED:
            if code in errors and not self._accepted:
                raise self._refused(code.removeprefix("Http"), errors[code].message)
        return answers

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
                if error.status_code == 401:
                    raise self._refused("401") from None  # the cause may quote the key
                return RowError(self._stage.name, f"Http{error.status_code}", self._without_key(error.message))
            except openai.APITimeoutError:
                # Each further attempt would wait for this row as well.
                return RowError(self._stage.name, TIMEOUT, f"no answer within {self._timeout:g} s")
            except openai.APIConnectionError as error:
                cause = error.__cause__ or error
                return RowError(self._stage.name, LOST, self._without_key(f"{type(cause).__name__}: {cause}"))
            except ValidationError as error:
                return RowError(self._stage.name, BAD_ANSWER, _first_problem(error))

    def _refused(self, status: str, said: str = "") -> SpecError:
        advice = f"answered {status}: check key and model" + (f"; it said: {said}" if said else "")
        return SpecError.of("endpoint.url", str(self._client.base_url), advice)

    def _without_key(self, said: str) -> str:
        # A server may quote it, and so may a client that cannot send it.
        return (said.replace(self._secret, "***") if self._secret else said)[:500]

    async def _ask(self, request: Request) -> StageOutput:
        if self._stage.task == "embed":
            embed = self._client.embeddings.with_raw_response.create
            vectors = _read(_Embeddings, await embed(model=self._model, input=request.text, encoding_format="float"))
            return StageOutput(vectors.data[0].embedding, *vectors.tokens)
        complete = self._client.chat.completions.with_raw_response.create
        chat = _read(
            _Chat,
            await complete(model=self._model, messages=cast("Any", request.messages), **self._parameters(request)),
        )
        [choice, *_] = chat.choices
        return StageOutput(choice.message.content or "", *chat.tokens, choice.finish_reason or "")

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


def _read(model: type[_Model], answer: Any) -> _Model:
    return model.model_validate_json(answer.content)


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"the answer cannot be used: {place}{': ' if place else ''}{first['msg']}"[:500]
