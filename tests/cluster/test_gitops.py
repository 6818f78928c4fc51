"""GitOps on a real API server: a sync changes nothing, and a finished job stays finished."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed import binaries

from llmbatch.api.crd import UNSEEN
from llmbatch.api.job import RowProgress
from llmbatch.api.progress import Progress
from operatorkit import Kube, head, job, kube, kubelet, operating

pytestmark = pytest.mark.cluster
GITOPS = Path(__file__).parents[2] / "examples" / "gitops"
ALL_ROWS = RowProgress(percentage=100.0, rows_total=10, rows_completed=10)
WITHOUT_DEFINITION = {"HelmRelease"}
"""The Go module proxy does not have helm-controller, only its types."""


def kubectl(api: Kube, *arguments: str, given: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    command = [
        binaries.path("controlplane"), "kubectl", f"--kubeconfig={api.kubeconfig}", f"--namespace={api.namespace}",
        *arguments, "--filename=-",
    ]  # fmt: skip
    return subprocess.run(command, input=yaml.safe_dump(given), capture_output=True, text=True, check=False)


def sync(api: Kube, manifest: dict[str, Any]) -> None:
    """Apply as Argo CD with ServerSideApply and Flux do."""
    done = kubectl(api, "apply", "--server-side", "--force-conflicts", "--field-manager=gitops", given=manifest)
    assert done.returncode == 0, done.stderr


def drift(api: Kube, manifest: dict[str, Any]) -> str:
    done = kubectl(api, "diff", "--server-side", "--field-manager=gitops", given=manifest)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def versions(api: Kube) -> tuple[int, str]:
    metadata = api.job("summarise")["metadata"]
    return metadata["generation"], metadata["resourceVersion"]


def test_a_job_nobody_has_seen_is_not_current(kubeconfig: Path):
    with kube(kubeconfig) as api:
        assert api.create(job())["status"].items() >= UNSEEN.items()


def test_a_second_sync_of_a_job_changes_nothing(kubeconfig: Path):
    manifest = job()
    with kube(kubeconfig) as api:
        sync(api, manifest)
        with operating(api):
            api.wait(lambda: api.condition("summarise", "Stalled")[1] == "Unschedulable")
        assert drift(api, manifest) == ""
        before = versions(api)
        sync(api, manifest)
        assert versions(api) == before


def test_a_sync_of_a_finished_job_runs_nothing(kubeconfig: Path):
    with kube(kubeconfig) as api, kubelet(api) as nodes:
        manifest = job(capacity=nodes.capacity(), ttlSecondsAfterFinished=1)
        nodes.may_run.clear()
        sync(api, manifest)
        with operating(api), head(api, nodes) as server:
            nodes.may_run.set()
            submission = f"{api.job('summarise')['metadata']['uid']}-1"
            api.wait(lambda: submission in server.jobs)
            server.end(submission, Progress(state="complete", rows=ALL_ROWS))
            api.wait(lambda: api.condition("summarise", "Complete")[0] == "True")
            api.wait(lambda: api.get("RayCluster", "summarise") is None)
        before = versions(api)
        with operating(api) as operator:
            sync(api, manifest)
            assert drift(api, manifest) == ""
            api.wait(lambda: operator.metrics.passes._sum.get() > 0)
            assert versions(api) == before
            assert operator.writes == 0
            assert api.get("RayCluster", "summarise") is None


@pytest.fixture(scope="module")
def gitops_definitions(kubeconfig: Path, testbed_gateway: str) -> None:
    """Install the CustomResourceDefinitions of Argo CD and Flux, where no real ones can be."""
    with kube(kubeconfig) as api:
        for module, place in binaries.GITOPS_DEFINITIONS.items():
            for file in sorted((binaries.module(module) / place).glob("*.yaml")):
                definition = yaml.safe_load(file.read_text())
                if definition["kind"] == "CustomResourceDefinition":
                    sync(api, definition)


@pytest.mark.usefixtures("gitops_definitions")
@pytest.mark.parametrize("path", sorted(GITOPS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(GITOPS)))
def test_an_example_is_valid_for_the_tools_own_definitions(kubeconfig: Path, path: Path):
    with kube(kubeconfig) as api:
        documents = yaml.safe_load_all(path.read_text())
        for document in (found for found in documents if found["kind"] not in WITHOUT_DEFINITION):
            here = {**document, "metadata": {**document["metadata"], "namespace": api.namespace}}
            api.wait(lambda given=here: dry_run(api, given))


def dry_run(api: Kube, given: dict[str, Any]) -> bool:
    done = kubectl(api, "create", "--dry-run=server", "--validate=strict", given=given)
    served = "no matches for kind" not in done.stderr
    assert done.returncode == 0 or not served, done.stderr
    return served
