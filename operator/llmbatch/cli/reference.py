"""The reference pages, made from what they describe: the job's models and the command's parser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llmbatch.api.crd import root_schema

MADE = "<!-- Made from the code by `python docs/make_reference.py`: do not edit. -->\n"
_BOUNDS = {
    "minimum": "{}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "maxProperties": "at most {} entries",
    "pattern": "matches `{}`",
}


def job_page() -> str:
    """Return docs/reference/llmbatchjob.md: every field of `spec` and `status`."""
    schema = root_schema()["properties"]
    lines = [
        MADE,
        "# LLMBatchJob, field by field\n",
        (
            "`apiVersion: llmbatch.dev/v1alpha1`, `kind: LLMBatchJob`. The name in `metadata` has at most 52 "
            "characters. Unknown fields are refused. A field without a default is optional unless it says *required*.\n"
        ),
    ]
    for name in ("spec", "status"):
        lines += [f"## {name}\n", *_section(schema[name], name)]
    return "\n".join(lines)


def _section(schema: dict[str, Any], path: str) -> Iterator[str]:
    if "description" in schema:
        yield schema["description"] + "\n"
    yield "| Field | Type | Default | Allowed | What it is for |\n|---|---|---|---|---|"
    nested = []
    for name, field in schema["properties"].items():
        required = name in schema.get("required", ())
        yield _row(name, field, required=required)
        inner = field.get("items", field)
        if "properties" in inner:
            nested.append((f"{path}.{name}{'[]' if inner is not field else ''}", inner))
    for rule in schema.get("x-kubernetes-validations", ()):
        yield f"\nRule: {rule['message']} (`{rule['rule']}`)."
    yield ""
    for inner_path, inner in nested:
        yield f"### {inner_path}\n"
        yield from _section(inner, inner_path)


def _row(name: str, field: dict[str, Any], *, required: bool) -> str:
    cells = [f"`{name}`", _type(field), "*required*" if required else _default(field), _allowed(field)]
    cells.append(field.get("description", ""))
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _type(field: dict[str, Any]) -> str:
    if "items" in field:
        return f"list of {_type(field['items'])}"
    return "map" if "additionalProperties" in field else str(field["type"])


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    if default is None or isinstance(default, dict):
        return ""
    return f"`{json.dumps(default)}`"


def _allowed(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    said = [text.format(_bound(field, key)) for key, text in _BOUNDS.items() if key in field]
    return "; ".join(said)


def _bound(field: dict[str, Any], key: str) -> str:
    if key != "minimum":
        return str(field[key])
    return f"more than {field[key]}" if field.get("exclusiveMinimum") else f"at least {field[key]}"


def cli_page() -> str:
    """Return docs/reference/cli.md: every verb with its options, as typer documents it."""
    import typer
    from typer.cli import get_docs_for_click

    from llmbatch.cli.main import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="llmbatch")
    return MADE + "\n" + get_docs_for_click(obj=command, ctx=context, name="llmbatch", title="The llmbatch command")
