"""Prompts: sandboxed Jinja2 over the row's fields and the earlier stages' outputs, or messages from the row."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.defaults import DEFAULT_NAMESPACE
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmbatch.api.job import LLMBatchJobSpec, Stage
from llmbatch.errors import SpecError
from llmbatch.runtime.rows import RowError, StageOutput, errors_in, names_in

Message = dict[str, Any]


class PromptError(Exception):
    """A row's prompt cannot be made. The row becomes an error row."""


FILLING_ERRORS = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What Jinja's filters and Python's methods raise of a value that is not what the template takes it for."""


class Request(NamedTuple):
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


Asked: TypeAlias = Request | RowError | None
"""What a stage does with a row: ask its engine, say why it cannot, or nothing, for the row has an error already."""


class Renderer:
    """Makes one stage's requests. Compiled once a replica."""

    def __init__(self, stage: Stage) -> None:
        prompt = stage.prompt
        self._stage = stage.name
        self._needed = _names_in_prompt(stage)
        self._messages_field = prompt.messages_field
        self._system = _filler(prompt.system) if prompt.system is not None else None
        self._user = _filler(prompt.user or "")
        self._query = _filler(prompt.query or "")

    def ask(self, batch: pa.Table) -> list[Asked]:
        """Return what to do with each row of a batch, a table of `rows.SCHEMA` and of the stages before."""
        ids: Iterable[str] = batch.column("id").to_pylist()
        rows = zip(ids, errors_in(batch), names_in(batch, self._needed), strict=True)
        asked: list[Asked] = []
        for row_id, error, names in rows:
            try:
                asked.append(None if error else self.render(row_id, names))
            except PromptError as problem:
                asked.append(RowError(self._stage, "PromptError", str(problem)))
        return asked

    def render(self, row_id: str, names: Mapping[str, Any]) -> Request:
        """Return the request for one row, whose fields and earlier outputs are `names`.

        Raises:
            PromptError: a template names a field that this row lacks, or its messages are no messages.
        """
        if self._messages_field is not None:
            given = _messages(names, self._messages_field)
            return Request(row_id, given, "\n".join(str(message["content"]) for message in given))
        try:
            user = self._user(names)
            system = None if self._system is None else self._system(names)
            query = self._query(names)
        except FILLING_ERRORS as error:
            raise PromptError(f"the template cannot be filled: {error}") from error
        messages: tuple[Message, ...] = ({"role": "user", "content": user},)
        if system is not None:
            messages = ({"role": "system", "content": system}, *messages)
        return Request(row_id, messages, user, query)


def answers(asked: Sequence[Asked], results: Iterable[StageOutput | RowError]) -> list[StageOutput | RowError | None]:
    """Return the engine's results in the places of the requests, among the rows that were not asked."""
    remaining = iter(results)
    return [next(remaining) if isinstance(one, Request) else one for one in asked]


Filler: TypeAlias = Callable[[Mapping[str, Any]], str]


def _filler(source: str) -> Filler:
    env = environment()
    parts = _plain_parts(env.parse(source), env.globals)
    if parts is None:
        return env.from_string(source).render
    # Most prompts are text and names. Jinja makes a context for each row, which costs several times the filling.
    text = "".join(f"%({part})s" if is_name else part.replace("%", "%%") for is_name, part in parts)

    def fill(names: Mapping[str, Any]) -> str:
        try:
            return text % names
        except KeyError as error:
            raise UndefinedError(f"{error.args[0]!r} is undefined") from error

    return fill


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
    """Return the input fields that some prompt uses; the others need not travel.

    Up to the stage of its name, and in that one, a name means the field.
    """
    needed: set[str] = set()
    made: set[str] = set()
    for stage in spec.stages:
        needed |= _names_in_prompt(stage) - made
        made.add(stage.name)
    return frozenset(needed)


def _names_in_prompt(stage: Stage) -> frozenset[str]:
    field = stage.prompt.messages_field
    names = set() if field is None else {field}
    for place, source in _templates(stage).items():
        tree = _parsed(place, source)
        names |= meta.find_undeclared_variables(tree)
        # Jinja has a `range` and a `dict` of its own, and a field of that name goes before it.
        names |= {node.name for node in tree.find_all(nodes.Name)} & DEFAULT_NAMESPACE.keys()
    return frozenset(names)
