"""What the documents show can be copied, followed and typed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from testbed import faults
from typer.testing import CliRunner

from llmbatch.api.crd import custom_resource_definition
from llmbatch.api.job import LLMBatchJob, LLMBatchJobSpec
from llmbatch.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PACKAGE = re.compile(r"[\w.-]+")
SPEC_FIELDS = {field.alias or name for name, field in LLMBatchJobSpec.model_fields.items()}
CHEAP_VERBS = ("validate", "render", "signals", "crd", "version")
"""Verbs whose commands in the documents are run, not only parsed."""
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text()) if name == language]


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of a program in a page's console blocks."""
    for block in blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words = words[1:]
            if words and Path(words[0]).name == program:
                yield words[1:]


def make_targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pages
def test_yaml_blocks_parse_and_jobs_are_valid(page: Path) -> None:
    for block in blocks(page, "yaml"):
        document = yaml.safe_load(block)
        if document.get("kind") == "LLMBatchJob":
            LLMBatchJob.model_validate(document)


@pages
def test_parts_of_a_job_are_valid_in_a_job(page: Path) -> None:
    job = yaml.safe_load((ROOT / "examples/quickstart.yaml").read_text())
    for block in blocks(page, "yaml"):
        part = yaml.safe_load(block)
        if "kind" in part:
            continue
        spec = dict(job["spec"])
        stage_part = {key: part.pop(key) for key in list(part) if key not in SPEC_FIELDS}
        spec["stages"] = [{**spec["stages"][0], **stage_part}]
        LLMBatchJob.model_validate({**job, "spec": {**spec, **part}})


@pages
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text()) if not re.match(r"[a-z]+:", link)]
    missing = [link for link in targets if not (page.parent / link.split("#")[0]).exists()]
    assert not missing


@pages
def test_make_targets_exist(page: Path) -> None:
    named = {word for block in blocks(page, "console") for word in re.findall(r"\bmake ([\w-]+)", block)}
    if named:
        assert named <= make_targets()


@pages
def test_commands_of_llmbatch_parse(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    for verb, *arguments in commands(page, "llmbatch"):
        assert verb in group.commands
        group.commands[verb].make_context(verb, arguments)


@pages
def test_commands_that_cost_nothing_do_what_they_say(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in commands(page, "llmbatch"):
        files = [Path(word) for word in words if word.endswith((".yaml", ".json"))]
        if words[0] in CHEAP_VERBS and all(file.exists() for file in files):
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, f"{words}\n{result.output}"


@pages
def test_faults_of_the_test_cluster_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in commands(page, "faults"):
        monkeypatch.setattr(sys, "argv", ["faults", *words])
        assert faults.arguments().node


@pages
def test_json_blocks_parse(page: Path) -> None:
    for block in blocks(page, "json"):
        json.loads(block)


@pages
def test_scripts_that_are_called_are_there(page: Path) -> None:
    for words in commands(page, "python"):
        assert words[0] == "-m" or (ROOT / words[0]).exists(), words


@pages
def test_patches_of_a_job_give_a_valid_job(page: Path) -> None:
    job = yaml.safe_load((ROOT / "examples/every-field.yaml").read_text())
    for words in commands(page, "kubectl"):
        if "patch" in words and "-p" in words:
            patch = json.loads(words[words.index("-p") + 1])
            LLMBatchJob.model_validate(_merged(job, patch))


def _merged(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(base[key], patch[key]) for key in patch if isinstance(patch[key], dict) and key in base}
    return {**base, **patch, **both}


@pages
def test_values_that_are_set_for_helm_exist_in_the_chart(page: Path) -> None:
    values = yaml.safe_load((ROOT / "charts/llmbatch/values.yaml").read_text())
    for words in commands(page, "helm"):
        settings = [word for before, word in pairwise(words) if before.startswith("--set")]
        if "charts/llmbatch" not in words:
            continue
        for setting in settings:
            found: Any = values
            for name in setting.partition("=")[0].split("."):
                assert name in found or found == {}, f"{setting}: the chart has no such value"
                found = found.get(name, {})


def test_readme_shows_the_columns_that_kubectl_prints() -> None:
    [version] = custom_resource_definition()["spec"]["versions"]
    columns = [item["name"] for item in version["additionalPrinterColumns"] if not item.get("priority")]
    shown = re.search(r"^NAME .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert shown is not None
    assert shown[0].split() == ["NAME", *(name.upper() for name in columns)]


def test_every_page_of_the_site_is_in_its_navigation() -> None:
    def leaves(item: Any) -> Iterator[str]:
        if isinstance(item, str):
            yield item
            return
        for inner in item.values() if isinstance(item, dict) else item:
            yield from leaves(inner)

    listed = set(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    there = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")}
    assert there == {page for page in listed if not page.startswith("http")}, "see nav in mkdocs.yml"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site/monitoring/index.html").read_text()
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://(?!llmbatch\.github\.io)', page)


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    groups = project["dependency-groups"].values()
    listed = [project["project"]["dependencies"], *extras, *groups]
    names = {name for group in listed for line in group for name in PACKAGE.findall(line)[:1]}
    reasons = (ROOT / "docs/dependencies.md").read_text()
    assert not {name for name in names if not re.search(rf"^\|[^|]*\b{re.escape(name)}\b", reasons, re.MULTILINE)}
