"""The Helm chart in tests: rendered by the real Helm, and asked for objects."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from testbed import binaries

Body = dict[str, Any]
CHART = Path(__file__).parents[1] / "charts" / "llmbatch"
CI_VALUES = sorted(CHART.glob("ci/*-values.yaml"))
NAMESPACE = "llmbatch-system"
RELEASE = "llmbatch"


class Rendered(list[Body]):
    """The objects of a release."""

    def of(self, kind: str) -> list[Body]:
        """Return the objects of a kind."""
        return [item for item in self if item["kind"] == kind]

    def one(self, kind: str, name: str = "") -> Body:
        """Return the only object of a kind, or the one whose name ends so."""
        [found] = [item for item in self.of(kind) if item["metadata"]["name"].endswith(name)]
        return found

    @property
    def pod(self) -> Body:
        """The spec of the operator's pod."""
        return self.one("Deployment")["spec"]["template"]["spec"]

    @property
    def container(self) -> Body:
        """The operator's container."""
        [container] = self.pod["containers"]
        return container

    @property
    def settings(self) -> Body:
        """What the operator reads as its settings."""
        return yaml.safe_load(self.one("ConfigMap", "-settings")["data"]["settings.yaml"])

    @property
    def rules(self) -> list[Body]:
        """Every rule that the operator is given."""
        given = {
            (item["roleRef"]["kind"], item["roleRef"]["name"], item["metadata"].get("namespace"))
            for kind in ("RoleBinding", "ClusterRoleBinding")
            for item in self.of(kind)
        }
        roles = [*self.of("Role"), *self.of("ClusterRole")]
        bound = [
            role
            for role in roles
            if (role["kind"], role["metadata"]["name"], role["metadata"].get("namespace")) in given
        ]
        return [rule for role in bound for rule in role["rules"]]

    def verbs(self, resource: str) -> set[str]:
        """Return what the operator may do with a resource."""
        return {verb for rule in self.rules if resource in rule["resources"] for verb in rule["verbs"]}


def helm(*arguments: str | Path, values: Body | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Helm."""
    options = [] if values is None else ["--values", "-"]
    return subprocess.run(
        [binaries.path("helm"), *map(str, arguments), *options],
        input=None if values is None else yaml.safe_dump(values),
        check=check,
        capture_output=True,
        text=True,
    )


def render(values: Body | None = None, *options: str, release: str = RELEASE) -> Rendered:
    """Return what the chart renders to."""
    done = helm("template", release, CHART, "--namespace", NAMESPACE, *options, values=values or {})
    return Rendered(item for item in yaml.safe_load_all(done.stdout) if item)


def refusal(values: Body) -> str:
    """Return what Helm says to values that it refuses."""
    done = helm("template", RELEASE, CHART, values=values, check=False)
    assert done.returncode != 0, "the values were taken"
    return done.stderr


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Return every scalar of a document with its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def chart_generator() -> ModuleType:
    """Return charts/generate.py, which lies in no package."""
    spec = importlib.util.spec_from_file_location("generate", CHART.parent / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
