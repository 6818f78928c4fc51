"""The reference pages in the repository are the ones that the code makes now, and leave nothing out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from llmbatch.api.crd import root_schema
from llmbatch.cli.reference import cli_page, job_page, metrics_page
from metricskit import Operator, counted, families, operator_text, snapshot

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs" / "reference"
EXAMPLE = yaml.safe_load((ROOT / "examples" / "every-field.yaml").read_text())


def test_the_committed_pages_are_the_made_ones() -> None:
    for name, page in (("llmbatchjob", job_page(EXAMPLE)), ("cli", cli_page()), ("metrics", metrics_page())):
        assert (PAGES / f"{name}.md").read_text() == page, "run python docs/make_reference.py"


def unset(schema: dict[str, Any], items: list[dict[str, Any]], path: str) -> Iterator[str]:
    """Yield the fields of a schema that none of some objects sets."""
    for name, field in schema["properties"].items():
        found = [item[name] for item in items if name in item]
        if not found:
            yield f"{path}.{name}"
        inner = field.get("items", field)
        if "properties" in inner:
            several = inner is not field
            flat = [one for value in found for one in value] if several else found
            yield from unset(inner, flat, f"{path}.{name}")


def test_every_field_of_the_spec_has_an_example() -> None:
    assert not list(unset(root_schema()["properties"]["spec"], [EXAMPLE["spec"]], "spec"))


def test_every_verb_is_there() -> None:
    cli = cli_page()
    for verb in ("run", "validate", "export", "clean", "submit", "status", "simulate"):
        assert f"## `llmbatch {verb}`" in cli


def test_every_metric_that_is_shown_is_there() -> None:
    seen = snapshot()
    operator = Operator()
    operator.metrics.count_preemptions(counted(), counted("w2"), seen)
    page = metrics_page()
    for name, family in families(operator_text(operator)).items():
        series = f"{name}_total" if family.type == "counter" else name
        assert name.startswith("process_") or f"`{series}`" in page
