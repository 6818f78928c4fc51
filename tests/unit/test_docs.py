"""What the documents show can be copied, followed and typed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from llmbatch.api.job import LLMBatchJob

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PACKAGE = re.compile(r"[\w.-]+")
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text()) if name == language]


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
        stage_part = {key: part.pop(key) for key in list(part) if key not in spec}
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


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    groups = project["dependency-groups"].values()
    listed = [project["project"]["dependencies"], *extras, *groups]
    names = {name for group in listed for line in group for name in PACKAGE.findall(line)[:1]}
    reasons = (ROOT / "docs/dependencies.md").read_text()
    assert not {name for name in names if not re.search(rf"^\|[^|]*\b{re.escape(name)}\b", reasons, re.MULTILINE)}
