"""The values and the commands of Helm and kubectl that the documents show do what they say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer
import yaml

from chartkit import CHART, CI_VALUES, RELEASE, Cluster, helm, render
from llmbatch.cli.main import app

pytestmark = pytest.mark.chart
ROOT = CHART.parents[1]
VALUES = re.compile(r'^```yaml title="values.yaml"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


def snippets() -> Iterator[str]:
    for page in PAGES:
        yield from VALUES.findall(page.read_text())


def commands(program: str) -> Iterator[list[str]]:
    for page in PAGES:
        for block in CONSOLE.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.partition(" | ")[0], comments=True)
                if words[:1] == [program]:
                    yield words


@pytest.mark.parametrize("values", list(snippets()))
def test_values_in_the_documents_are_taken(values: str) -> None:
    assert render(yaml.safe_load(values))


@pytest.mark.parametrize("words", [words for words in commands("helm") if "charts/llmbatch" in words], ids=" ".join)
def test_helm_commands_in_the_documents_are_understood(words: list[str]) -> None:
    for flag in (word.partition("=")[0] for word in words[1:] if word.startswith("-")):
        assert f"{flag} " in f"{helm(words[1], '--help').stdout} "
    chosen = [word for before, word in pairwise(words) if before == "--set"]
    assert helm("template", RELEASE, CHART, *(f"--set={item}" for item in chosen)).stdout


@pytest.mark.parametrize("words", list(commands("kubectl")), ids=" ".join)
def test_kubectl_commands_in_the_documents_are_understood(words: list[str], tmp_path: Path) -> None:
    # Nobody answers there: what kubectl does not understand it says before it asks.
    said = Cluster(tmp_path / "none", tmp_path).kubectl("--server=http://127.0.0.1:9", *words[1:], check=False)
    assert "refused" in said, said


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
