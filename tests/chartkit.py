"""The Helm chart in tests: rendered by the real Helm, and asked for objects."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
PATIENCE = 180.0
"""Longest wait for one thing, in seconds: a machine that does other work as well has its time."""
REFUSED = ("forbidden", "Forbidden", "permissions", "Traceback", "ERROR")
"""What the log of an operator that may do all it has to do does not say."""
PASSING = ("storage is (re)initializing", " failed; will retry: ")
"""What the API server answers for a moment after a kind was defined, and what kopf says of one that is slow."""


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


def helm(
    *arguments: str | Path, values: Body | None = None, check: bool = True, kubeconfig: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Helm; fail the test with what it says when it should succeed and does not."""
    options = [] if values is None else ["--values", "-"]
    text = None if values is None else yaml.safe_dump(values)
    return _run([binaries.path("helm"), *arguments, *options], text, check, kubeconfig)


def _run(
    command: list[str | Path], text: str | None, check: bool, kubeconfig: Path | None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig or os.devnull)}
    done = subprocess.run(command, input=text, check=False, capture_output=True, text=True, env=environment)
    assert not check or done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}"
    return done


def render(values: Body | None = None, *options: str, release: str = RELEASE) -> Rendered:
    """Return what the chart renders to."""
    done = helm("template", release, CHART, "--namespace", NAMESPACE, *options, values=values or {})
    return Rendered(item for item in yaml.safe_load_all(done.stdout) if item)


def refusal(values: Body) -> str:
    """Return what Helm says to values that it refuses."""
    done = helm("template", RELEASE, CHART, values=values, check=False)
    assert done.returncode != 0, "the values were taken"
    return done.stderr


@dataclass(frozen=True)
class Cluster:
    """A test cluster as its administrator sees it."""

    kubeconfig: Path
    folder: Path
    """The files of the testbed; the logs of pods are below `pods`."""

    def helm(self, *arguments: str | Path, values: Body | None = None, check: bool = True) -> str:
        """Run Helm and return what it prints."""
        done = helm(*arguments, values=values, check=check, kubeconfig=self.kubeconfig)
        return done.stdout + done.stderr

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        """Run kubectl and return what it prints."""
        command = [binaries.path("controlplane"), "kubectl", *arguments]
        done = _run(command, text, check, self.kubeconfig)
        return done.stdout if check else done.stdout + done.stderr

    def get(self, *arguments: str) -> Body | None:
        """Return an object, or None."""
        found = self.kubectl("get", *arguments, "--output=json", "--ignore-not-found")
        return json.loads(found) if found else None

    def apply(self, body: Body, namespace: str) -> None:
        """Apply an object."""
        self.kubectl("apply", "--namespace", namespace, "--filename=-", text=yaml.safe_dump(body))

    def condition(self, kind: str, job: str, namespace: str) -> tuple[str, str]:
        """Return status and message of a job's condition."""
        body = self.get("llmbatchjobs", job, "--namespace", namespace) or {}
        conditions = (body.get("status") or {}).get("conditions", [])
        found = next((item for item in conditions if item["type"] == kind), {})
        return found.get("status", ""), found.get("message", "")

    def operator_log(self, namespace: str) -> str:
        """Return what the operators of a namespace have logged, those that are gone included."""
        logs = sorted(self.folder.glob(f"pods/{namespace}_*/operator.log"))
        return "".join(log.read_text() for log in logs)

    def wait(self, what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """Return the first true answer."""
        deadline = time.monotonic() + seconds
        while not (answer := what()):
            assert time.monotonic() < deadline, f"not true within {seconds} s"
            time.sleep(0.5)
        return answer


def complaints(cluster: Cluster, into: str) -> list[str]:
    """Return what the operators of a namespace logged of refusals and errors."""
    log = cluster.operator_log(into)
    assert log
    lines = [line for line in log.splitlines() if "Forbidden" in line or not any(word in line for word in PASSING)]
    return [line for line in lines if any(word in line for word in REFUSED)]


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
