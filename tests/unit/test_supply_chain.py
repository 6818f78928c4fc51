"""What is released is what was tested: pins agree with each other, and workflows run nothing that can change."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed import binaries

from llmbatch.core.job.children.cluster import RAY_VERSION

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PINNED = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def load(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


def images() -> dict[str, str]:
    """Return the base images of the Dockerfile by their build arguments."""
    return dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", DOCKERFILE, re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path: Path):
    used = [line.strip(" -") for line in path.read_text().splitlines() if "uses:" in line]
    assert used
    assert not [line for line in used if not PINNED.fullmatch(line)]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_make_targets_of_a_workflow_exist(path: Path):
    named = {word for line in re.findall(r"\bmake ([a-z0-9 -]+)", path.read_text()) for word in line.split()}
    assert named <= set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))


def test_the_dockerfile_has_the_versions_of_the_rest():
    uv = re.search(r"^UV_VERSION := (\S+)$", MAKEFILE, re.MULTILINE)
    assert uv is not None
    assert images()["UV_IMAGE"].partition("@")[0].endswith(f":{uv[1]}")
    assert f":{RAY_VERSION}-" in images()["RAY_IMAGE"]


def test_the_chart_installs_the_images_that_are_released():
    release = load(ROOT / ".github/workflows/release.yaml")
    targets = {entry["target"] for entry in release["jobs"]["image"]["strategy"]["matrix"]["include"]}
    assert targets <= set(re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE))
    released = {f"{release['env']['REGISTRY']}/{target}" for target in targets}
    values = load(ROOT / "charts/llmbatch/values.yaml")
    assert {values["image"]["repository"], values["runtime"]["image"]["repository"]} == released


def test_renovate_finds_what_it_is_to_update():
    config = json.loads((ROOT / "renovate.json").read_text())
    found = {}
    for manager in config["customManagers"]:
        [pattern] = manager["managerFilePatterns"]
        text = (ROOT / pattern.strip("/^$")).read_text()
        [expression] = (expression.replace("(?<", "(?P<") for expression in manager["matchStrings"])
        found |= {match.group(0): match.groupdict() for match in re.finditer(expression, text)}
    assert len(found) == len(images()) + 1
    assert all(groups["currentValue"] for groups in found.values())


@pytest.mark.cluster
def test_actionlint_has_nothing_to_say():
    done = subprocess.run([binaries.path("actionlint"), *WORKFLOWS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
