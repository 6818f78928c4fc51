"""The values and the Helm commands that the documents show do what they say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer
import yaml

from chartkit import CHART, CI_VALUES, RELEASE, helm, render
from llmbatch.cli.main import app

pytestmark = pytest.mark.chart
ROOT = CHART.parents[1]
VALUES = re.compile(r'^```yaml title="values.yaml"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


def snippets() -> Iterator[str]:
    for page in PAGES:
        yield from VALUES.findall(page.read_text())


def commands() -> Iterator[list[str]]:
    for page in PAGES:
        for block in CONSOLE.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["helm"] and "charts/llmbatch" in words:
                    yield words


@pytest.mark.parametrize("values", list(snippets()))
def test_values_in_the_documents_are_taken(values: str) -> None:
    assert render(yaml.safe_load(values))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_helm_commands_in_the_documents_are_understood(words: list[str]) -> None:
    for flag in (word.partition("=")[0] for word in words[1:] if word.startswith("-")):
        assert f"{flag} " in f"{helm(words[1], '--help').stdout} "
    chosen = [word for before, word in pairwise(words) if before == "--set"]
    assert helm("template", RELEASE, CHART, *(f"--set={item}" for item in chosen)).stdout


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_the_operator_understands_its_arguments(values: Path) -> None:
    container = render(None, "--values", str(values)).container
    program, verb = container["command"]
    assert program == "llmbatch"
    operator = typer.main.get_command(app).commands[verb]
    parsed = operator.make_context(verb, list(container["args"])).params
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(parsed["settings"].parent) in mounts
    assert parsed["port"] == container["ports"][0]["containerPort"]
