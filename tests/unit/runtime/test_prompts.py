from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from jobs import job, stage
from ledgerkit import to_table
from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.errors import SpecError
from llmbatch.runtime.prompts import (
    PromptError,
    Renderer,
    Request,
    answers,
    check_templates,
    environment,
    needed_fields,
)
from llmbatch.runtime.rows import Row, RowError, StageOutput


def spec_of(*prompts: dict[str, Any]) -> LLMBatchJobSpec:
    stages = [{"name": f"s{i}", "engine": "simulated", "prompt": prompt} for i, prompt in enumerate(prompts)]
    return job("unused", stages=stages).spec  # type: ignore[arg-type]


def test_a_prompt_sees_the_fields_and_the_stages_before() -> None:
    renderer = Renderer(stage("judge", prompt={"system": "Be {{ mood }}.", "user": "{{ text }} -> {{ summarise }}"}))
    source = Row("0", 0, 0, "a", {"mood": "kind", "text": "long"}, {"summarise": StageOutput("short")})
    [request] = renderer.ask(to_table([source]))
    assert isinstance(request, Request)
    assert request.messages == (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "long -> short"},
    )


def test_a_row_that_failed_is_not_asked_and_one_without_the_field_fails() -> None:
    rows = [Row("0", 0, n, str(n), {"text": n}) for n in range(3)]
    rows[0].error = RowError("input", "InvalidRow", "not JSON")
    rows[1].fields = {}
    first, second, third = Renderer(stage("say", prompt={"user": "{{ text }}"})).ask(to_table(rows))
    assert first is None
    assert isinstance(second, RowError)
    assert (second.stage, second.code) == ("say", "PromptError")
    assert isinstance(third, Request)
    output = StageOutput("out")
    assert answers([first, second, third], [output]) == [None, second, output]


@pytest.mark.parametrize(
    "template",
    [
        "{{ text | dictsort }}",
        "{{ text | xmlattr }}",
        "{{ '{name}'.format(text) }}",
        "{{ '{} {}'.format(text) }}",
        "{{ text.encode(text) }}",
        "{{ text | truncate(1) }}",
        "{% macro again(it) %}{{ again(it) }}{% endmacro %}{{ again(text) }}",
    ],
)
def test_a_row_of_another_shape_than_its_template_wants_fails_alone(template: str) -> None:
    with pytest.raises(PromptError, match="the template cannot be filled"):
        Renderer(stage(prompt={"user": template})).render("a", {"text": "no mapping"})


def test_markup_in_a_row_is_left_as_it_is() -> None:
    assert Renderer(stage(prompt={"user": "{{ text }}"})).render("a", {"text": "<a & b>"}).text == "<a & b>"


def test_a_template_in_a_row_is_text_and_no_template() -> None:
    assert Renderer(stage(prompt={"user": "{{ text }}"})).render("a", {"text": "{{ 7 * 7 }}"}).text == "{{ 7 * 7 }}"


@pytest.mark.parametrize(
    "template", ["{{ text.__class__.__mro__ }}", "{{ missing }}", "{{ text + 1 }}", "{{ 1 // 0 }}"]
)
def test_what_a_template_may_not_do_fails_the_row(template: str) -> None:
    with pytest.raises(PromptError):
        Renderer(stage(prompt={"user": template})).render("a", {"text": "x"})


FRAGMENTS = (
    "plain 100 % ",
    "\n",
    "{{ text }}",
    "{{ number }}",
    "{{ missing }}",
    "{{ range }}",
    "{# remark #}",
    "{{ text | upper }}",
    "{%- if number %} yes {% endif %}",
    "{{- nothing -}}",
    "{% raw %}{{ text }}{% endraw %}",
    "{{ 'x' }}",
    "{{ parts }}",
)
FIELDS = {"text": "a <b> {{ c }}", "number": 0.5, "nothing": None, "parts": [1, {"a": "b"}]}


@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=6).map("".join))
def test_a_prompt_is_what_jinja_makes_of_it(template: str) -> None:
    try:
        expected: str | None = environment().from_string(template).render(FIELDS)
    except UndefinedError:
        expected = None
    renderer = Renderer(stage(prompt={"user": template}))
    if expected is None:
        with pytest.raises(PromptError, match="'missing' is undefined"):
            renderer.render("a", dict(**FIELDS))
    else:
        assert renderer.render("a", dict(**FIELDS)).text == expected


def test_messages_come_from_the_row() -> None:
    renderer = Renderer(stage(prompt={"messagesField": "messages"}))
    messages = [{"role": "user", "content": "hi"}]
    assert renderer.render("a", {"messages": messages}).messages == tuple(messages)
    with pytest.raises(PromptError, match="must be a list of messages"):
        renderer.render("a", {"messages": "hi"})


def test_an_unknown_field_is_named_before_anything_is_created() -> None:
    with pytest.raises(SpecError, match=r"stages\[0\]\.prompt\.user: 'txt': unknown field; known: id, text"):
        check_templates(spec_of({"user": "{{ txt }}"}), frozenset({"id", "text"}))


def test_a_later_stage_is_unknown_to_an_earlier_one() -> None:
    with pytest.raises(SpecError, match="'s1'"):
        check_templates(spec_of({"user": "{{ s1 }}"}, {"user": "{{ s0 }}"}), frozenset({"text"}))


@pytest.mark.parametrize(
    "template", ["{{ title | default('none') }}", "{% if title is defined %}{{ title }}{% endif %}"]
)
def test_a_guarded_field_may_be_absent(template: str) -> None:
    check_templates(spec_of({"user": template}), frozenset({"text"}))


def test_a_template_that_does_not_parse_is_refused() -> None:
    with pytest.raises(SpecError, match="must be a Jinja2 template"):
        check_templates(spec_of({"user": "{{ text"}), frozenset({"text"}))


def test_only_used_fields_travel() -> None:
    spec = spec_of({"user": "{{ text }}"}, {"user": "{{ s0 }} {{ title }}"}, {"messagesField": "messages"})
    assert needed_fields(spec) == {"text", "title", "messages"}


def test_a_field_of_a_stages_name_travels_to_the_stages_up_to_that_one() -> None:
    prompt = {"user": "{{ text }} {{ label }}"}
    stages = [{"name": name, "engine": "simulated", "prompt": prompt} for name in ("text", "label", "last")]
    assert needed_fields(job("unused", stages=stages).spec) == {"text", "label"}  # type: ignore[arg-type]
    later = [{"name": "text", "engine": "simulated", "prompt": {"user": "hi"}}, stages[2] | {"prompt": prompt}]
    assert needed_fields(job("unused", stages=later).spec) == {"label"}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["range", "dict"])
def test_a_field_of_the_name_of_a_function_travels(name: str) -> None:
    prompt = {"user": f"{{{{ {name} }}}}"}
    assert needed_fields(spec_of(prompt)) == {name}
    assert Renderer(stage(prompt=prompt)).render("a", {name: "1 to 5"}).text == "1 to 5"
    assert Renderer(stage(prompt={"user": "{{ range(3) | list }}"})).render("a", {}).text == "[0, 1, 2]"
