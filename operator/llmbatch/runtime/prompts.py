"""Prompts: sandboxed Jinja2 over the row's fields and the earlier stages' outputs, or messages from the row."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmbatch.api.job import LLMBatchJobSpec, Stage
from llmbatch.errors import SpecError
from llmbatch.runtime.rows import Row

Message = dict[str, Any]


class PromptError(Exception):
    """A row's prompt cannot be made. The row becomes an error row."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a stage asks of its engine for one row."""

    row_id: str
    """The row's id; seeds the sampling."""
    messages: tuple[Message, ...]
    """Chat messages, for generate."""
    text: str
    """The user text: what embed, classify and score look at."""
    query: str = ""
    """What score compares the text with."""


def environment() -> ImmutableSandboxedEnvironment:
    """Return the environment templates run in: no access to Python's internals, no undefined names."""
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)


class Renderer:
    """Makes one stage's requests. Compiled once a replica."""

    def __init__(self, stage: Stage) -> None:
        prompt = stage.prompt
        self._messages_field = prompt.messages_field
        self._system = _filler(prompt.system) if prompt.system is not None else None
        self._user = _filler(prompt.user) if prompt.user is not None else None
        self._query = _filler(prompt.query) if prompt.query is not None else None

    def render(self, row: Row) -> Request:
        """Return the request for one row.

        Raises:
            PromptError: a template names a field that this row lacks, or its messages are no messages.
        """
        names = {**row.fields, **{name: output.value for name, output in row.outputs.items()}}
        if self._messages_field is not None:
            messages = _messages(names, self._messages_field)
            return Request(row.id, messages, "\n".join(str(message["content"]) for message in messages))
        user = _render(self._user, names)
        messages = ({"role": "user", "content": user},)
        if self._system is not None:
            messages = ({"role": "system", "content": _render(self._system, names)}, *messages)
        return Request(row.id, messages, user, _render(self._query, names))


Filler: TypeAlias = Callable[[Mapping[str, Any]], str]


def _filler(source: str) -> Filler:
    env = environment()
    parts = _plain_parts(env.parse(source), env.globals)
    if parts is None:
        return env.from_string(source).render
    # Most prompts are text and names. Jinja makes a context for each row, which costs several times the joining.
    return lambda names: "".join([_value(part, names) if is_name else part for is_name, part in parts])


def _plain_parts(tree: nodes.Template, reserved: Container[str]) -> list[tuple[bool, str]] | None:
    """Return (whether it is a name, text) of a template that is text and names alone, else None."""
    parts = []
    for node in tree.body:
        if not isinstance(node, nodes.Output):
            return None
        for child in node.nodes:
            if isinstance(child, nodes.TemplateData):
                parts.append((False, child.data))
            elif isinstance(child, nodes.Name) and child.name not in reserved:
                parts.append((True, child.name))
            else:
                return None
    return parts


def _value(name: str, names: Mapping[str, Any]) -> str:
    if name not in names:
        raise UndefinedError(f"{name!r} is undefined")
    return str(names[name])


def _render(fill: Filler | None, names: Mapping[str, Any]) -> str:
    if fill is None:
        return ""
    try:
        return fill(names)
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise PromptError(f"the template cannot be filled: {error}") from error


def _messages(names: Mapping[str, Any], field: str) -> tuple[Message, ...]:
    value = names.get(field)
    well_formed = isinstance(value, list) and all(
        isinstance(message, dict) and "role" in message and "content" in message for message in value
    )
    if not value or not well_formed:
        raise PromptError(f"{field} must be a list of messages with role and content, got {str(value)[:100]!r}")
    return tuple(value)


def check_templates(spec: LLMBatchJobSpec, known_fields: frozenset[str]) -> None:
    """Check every template of a job before anything is created.

    Args:
        spec: The job's spec.
        known_fields: Fields seen in the first rows; empty when the input has none to look at.

    Raises:
        SpecError: a template does not parse, or requires a field that neither the input nor an earlier stage has.
    """
    known = set(known_fields)
    for index, stage in enumerate(spec.stages):
        for name, source in _templates(stage).items():
            place = f"spec.stages[{index}].prompt.{name}"
            unknown = required_names(place, source) - known
            if known_fields and unknown:
                raise SpecError.of(place, min(unknown), f"unknown field; known: {', '.join(sorted(known))}")
        field = stage.prompt.messages_field
        if known_fields and field is not None and field not in known:
            place = f"spec.stages[{index}].prompt.messagesField"
            raise SpecError.of(place, field, f"unknown field; known: {', '.join(sorted(known))}")
        known.add(stage.name)


def _templates(stage: Stage) -> dict[str, str]:
    prompt = stage.prompt
    texts = {"system": prompt.system, "user": prompt.user, "query": prompt.query}
    return {name: text for name, text in texts.items() if text is not None}


def required_names(place: str, source: str) -> set[str]:
    """Return the names a template needs: those it does not guard by `default` or `is defined`.

    Raises:
        SpecError: the template does not parse.
    """
    tree = _parsed(place, source)
    guarded = {
        node.node.name
        for kind, names in ((nodes.Filter, {"default", "d"}), (nodes.Test, {"defined", "undefined"}))
        for node in tree.find_all(kind)
        if node.name in names and isinstance(node.node, nodes.Name)
    }
    return meta.find_undeclared_variables(tree) - guarded


def _parsed(place: str, source: str) -> nodes.Template:
    try:
        return environment().parse(source)
    except TemplateSyntaxError as error:
        raise SpecError.of(place, source, f"must be a Jinja2 template: {error.message}, line {error.lineno}") from error


def needed_fields(spec: LLMBatchJobSpec) -> frozenset[str]:
    """Return the input fields that some prompt uses; the others need not travel."""
    names: set[str] = set()
    for stage in spec.stages:
        for place, source in _templates(stage).items():
            names |= meta.find_undeclared_variables(_parsed(place, source))
        if stage.prompt.messages_field is not None:
            names.add(stage.prompt.messages_field)
    return frozenset(names - {stage.name for stage in spec.stages})
