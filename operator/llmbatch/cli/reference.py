"""The reference pages, made from what they describe: the job's models and the command's parser."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llmbatch.api.crd import root_schema

if TYPE_CHECKING:
    from llmbatch.core.figures import Figure

MADE = "<!-- Made from the code by `python docs/make_reference.py`: do not edit. -->\n"
LONGEST_EXAMPLE = 90
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


def job_page(example: Mapping[str, Any]) -> str:
    """Return docs/reference/llmbatchjob.md: every field of `spec` and `status`.

    Args:
        example: A job whose spec sets every field somewhere; its values are the examples.
    """
    schema = root_schema()["properties"]
    lines = [
        MADE,
        "# LLMBatchJob, field by field\n",
        (
            "`apiVersion: llmbatch.dev/v1alpha1`, `kind: LLMBatchJob`. The name in `metadata` has at most 52 "
            "characters. Unknown fields are refused. A field without a default is optional unless it says *required*. "
            "The examples are from one valid job, [every-field.yaml](../../examples/every-field.yaml).\n"
        ),
    ]
    for name in ("spec", "status"):
        lines += [f"## {name}\n", *_section(schema[name], name, [example.get(name, {})])]
    return "\n".join(lines)


def _section(schema: dict[str, Any], path: str, examples: list[Any]) -> Iterator[str]:
    """Yield the section of an object and of those inside it. `examples` are the objects at this place of a job."""
    if "description" in schema:
        yield schema["description"] + "\n"
    shows = any(examples)
    head = ["Field", "Type", "Default", "Allowed", *(["Example"] if shows else []), "What it is for"]
    yield f"| {' | '.join(head)} |\n|{'---|' * len(head)}"
    nested = []
    for name, field in schema["properties"].items():
        required = name in schema.get("required", ())
        found = [item[name] for item in examples if name in item]
        yield _row(name, field, required=required, example=_example(found) if shows else None)
        inner = field.get("items", field)
        if "properties" in inner:
            several = inner is not field
            flat = [item for value in found for item in value] if several else found
            nested.append((f"{path}.{name}{'[]' if several else ''}", inner, flat))
    for rule in schema.get("x-kubernetes-validations", ()):
        yield f"\nRule: {rule['message']} (`{rule['rule']}`)."
    yield ""
    for inner_path, inner, flat in nested:
        yield f"### {inner_path}\n"
        yield from _section(inner, inner_path, flat)


def _example(found: list[Any]) -> str:
    """Return the first value as JSON; an object that has a section of its own is shown there."""
    if not found:
        return ""
    text = json.dumps(found[0], ensure_ascii=False)
    return f"`{text}`" if len(text) <= LONGEST_EXAMPLE else "see below"


def _row(name: str, field: dict[str, Any], *, required: bool, example: str | None) -> str:
    cells = [f"`{name}`", _type(field), "*required*" if required else _default(field), _allowed(field)]
    cells += [] if example is None else [example]
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


def metrics_page() -> str:
    """Return docs/reference/metrics.md: every metric of the operator, of a job and of a run."""
    from llmbatch.controller.metrics import JOB_FIGURES, OPERATOR_FIGURES
    from llmbatch.core.figures import JOB_LABELS, RUN_FIGURES

    labels = " and ".join(f"`{name}`" for name in JOB_LABELS)
    own = [figure for figure in JOB_FIGURES if figure not in RUN_FIGURES]
    return "\n".join(
        [
            MADE,
            "# Metrics\n",
            "## Of the operator\n",
            "At port 8080, `/metrics`; also `process_*` of the process.\n",
            *_figures(OPERATOR_FIGURES),
            "## Of a job\n",
            f"At the same place, with the labels {labels}, from the first look at the job until it is gone.\n",
            *_figures(own),
            "## Of a run\n",
            (
                f"At the same place, with the labels {labels}; rows and tokens as long as the job is there, the rest "
                "while a driver runs. Also at the run's own endpoint, port 8200 of the head, without these labels.\n"
            ),
            *_figures(RUN_FIGURES),
        ]
    )


def _figures(figures: Iterable[Figure]) -> Iterator[str]:
    yield "| Metric | Kind | Labels | What it says |\n|---|---|---|---|"
    for figure in figures:
        labels = ", ".join(f"`{label}`" for label in figure.labels)
        yield f"| `{figure.series}` | {figure.kind} | {labels} | {figure.help} |"
    yield ""
