"""What every engine that runs inside llmbatch's own replicas offers."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llmbatch.api.job import Endpoint
from llmbatch.errors import SpecError
from llmbatch.runtime.prompts import FILLING_ERRORS, Request
from llmbatch.runtime.rows import RowError, StageOutput

_KEY = re.compile(r"[!-~]+")


class Engine(Protocol):
    """One loaded model, or one connection to one. A replica makes it once."""

    def run(self, requests: Sequence[Request]) -> list[StageOutput | RowError]:
        """Answer a batch: one result a request, in order. A request that fails is a RowError."""
        ...


def api_key(endpoint: Endpoint) -> str:
    """Return the endpoint's key from the environment.

    Raises:
        SpecError: the variable is not set, or holds what no header can. The key itself is not in the message.
    """
    if endpoint.api_key_env is None:
        return "none"
    key = os.environ.get(endpoint.api_key_env)
    if not key:
        raise SpecError.of(
            "endpoint.apiKeyEnv", endpoint.api_key_env, "set this environment variable, or apiKeyEnv to null"
        )
    if not _KEY.fullmatch(key):
        raise SpecError.of(
            "endpoint.apiKeyEnv",
            endpoint.api_key_env,
            "the variable must hold printable ASCII without spaces and line ends (`echo` writes a line end)",
        )
    return key


def row_seed(seed: int, row_id: str) -> int:
    """Return the sampling seed of one row, 0 to 2^31 - 1: the same whenever and wherever the row runs."""
    digest = hashlib.blake2b(f"{seed}:{row_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def ask_messages(tokenizer: Any, request: Request, engine_args: Mapping[str, Any]) -> list[int]:
    """Return the tokens of a request's messages in the model's chat template.

    A model without a template gets the messages' texts, one after the other. `chat_template_kwargs` of the stage's
    `engineArgs` reaches the template, as it does in vLLM's and SGLang's servers.

    Raises:
        ValueError: the template refuses these messages.
    """
    if tokenizer.chat_template is None:
        ids = tokenizer("\n\n".join(str(message["content"]) for message in request.messages))["input_ids"]
        return [int(token) for token in ids]
    # A last message of the assistant is to be continued, not answered.
    continued = request.messages[-1]["role"] == "assistant"
    try:
        ids = tokenizer.apply_chat_template(
            list(request.messages),
            tokenize=True,
            return_dict=False,
            add_generation_prompt=not continued,
            continue_final_message=continued,
            **engine_args.get("chat_template_kwargs", {}),
        )
    except FILLING_ERRORS as error:
        raise ValueError(f"the model's chat template refuses these messages: {error}") from error
    return [int(token) for token in ids]
