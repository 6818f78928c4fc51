"""Installed, upgraded and removed with Helm on a real control plane, under exactly the chart's rights."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed import binaries
from testbed.controlplane import is_established
from testbed.faults import MARKET

from chartkit import CHART, CI_VALUES, NAMESPACE, Cluster, complaints, helm, render

pytestmark = [pytest.mark.chart, pytest.mark.cluster]
Body = dict[str, Any]
CRD = "customresourcedefinition/llmbatchjobs.llmbatch.dev"
SMALL = {"nodeSelector": {MARKET: "on-demand"}, "settings": {"statusSeconds": 1}}


def unschedulable(name: str) -> Body:
    """Return a job whose pods fit no node: all that the operator makes of it, and no Ray."""
    nowhere = {"nodeSelector": {"example.com/no": "such-node"}}
    stage = {"name": "say", "engine": "simulated", "prompt": {"user": "Say: {{ text }}"}, "resources": {"gpus": 1}}
    spec = {
        "input": {"uri": "s3://corpus/in/*.jsonl", "format": "jsonl", "idField": "id"},
        "stages": [stage],
        "output": {"uri": "s3://corpus/out/"},
        "capacity": {"spot": {"max": 1, **nowhere}, "onDemand": nowhere},
    }
    return {"apiVersion": "llmbatch.dev/v1alpha1", "kind": "LLMBatchJob", "metadata": {"name": name}, "spec": spec}


@contextmanager
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of its own."""
    name = f"team-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    try:
        yield name
    finally:
        cluster.kubectl("delete", "namespace", name, "--wait=false")


@contextmanager
def installed(cluster: Cluster, release: str, chart: Path, into: str, values: Body) -> Iterator[str]:
    """A release, uninstalled in the end. Gives what Helm said."""
    try:
        yield cluster.helm(
            "install", release, chart, "--namespace", into, "--create-namespace", "--wait", "--timeout=5m",
            values=values,
        )  # fmt: skip
    finally:
        cluster.helm("uninstall", release, "--namespace", into, "--wait", "--timeout=5m", "--ignore-not-found")


def previous_chart(folder: Path) -> Path:
    """Return a package of the chart as a release before this one: older in version, definition and arguments."""
    chart = folder / "llmbatch"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump({**about, "version": "0.0.9", "appVersion": "0.0.9"}))
    template = chart / "templates" / "crd-llmbatchjobs.yaml"
    text = template.read_text()
    assert text.count("    - name: Model\n") == 1
    template.write_text(text.replace("    - name: Model\n", "    - name: ModelName\n"))
    helm("package", chart, "--destination", folder)
    return folder / "llmbatch-0.0.9.tgz"


def columns(cluster: Cluster) -> set[str]:
    """Return the columns of `kubectl get llmbatchjobs`, by the definition that is there."""
    definition = cluster.get(CRD)
    return {column["name"] for column in definition["spec"]["versions"][0]["additionalPrinterColumns"]}


def uid(cluster: Cluster, team: str) -> str:
    """Return the uid of the job's RayCluster, blank when there is none."""
    found = cluster.get("raycluster/summarise", "--namespace", team)
    return found["metadata"]["uid"] if found else ""


def left_behind(cluster: Cluster) -> str:
    """Return the names of a release's objects that are there, its CustomResourceDefinition excepted."""
    return cluster.kubectl(
        "get", "all,configmaps,serviceaccounts,networkpolicies,roles,rolebindings,clusterroles,clusterrolebindings",
        "--all-namespaces", "--selector=app.kubernetes.io/instance=llmbatch", "--output=name",
    )  # fmt: skip


@pytest.fixture(scope="module")
def monitoring(cluster: Cluster) -> None:
    for name in ("servicemonitors", "prometheusrules"):
        file = binaries.prometheus_crds() / f"monitoring.coreos.com_{name}.yaml"
        cluster.kubectl("apply", "--server-side", "--filename", str(file))
        # `kubectl wait` fails at once for an object that has no conditions yet.
        cluster.wait(lambda crd=f"crd/{name}.monitoring.coreos.com": is_established(cluster.get(crd) or {}))


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_the_api_server_takes_every_object(cluster: Cluster, monitoring: None, values: Path) -> None:
    for name in (NAMESPACE, "team-a", "team-b"):
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, NAMESPACE)
    objects = render(None, "--values", str(values))
    cluster.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-",
        text=yaml.safe_dump_all(list(objects)),
    )  # fmt: skip


def test_a_restricted_namespace_admits_the_pod(cluster: Cluster) -> None:
    with namespace(cluster) as team:
        cluster.kubectl("label", "namespace", team, "pod-security.kubernetes.io/enforce=restricted")
        pod = {**render().one("Deployment")["spec"]["template"], "apiVersion": "v1", "kind": "Pod"}
        pod["metadata"]["name"] = "operator"
        pod["spec"]["serviceAccountName"] = "default"
        cluster.wait(lambda: cluster.get("serviceaccount/default", "--namespace", team))
        said = cluster.kubectl(
            "create", "--dry-run=server", "--namespace", team, "--filename=-", text=yaml.safe_dump(pod)
        )  # fmt: skip
        assert "created (server dry run)" in said


def test_the_notes_name_the_next_command_and_warn_without_kuberay(cluster: Cluster) -> None:
    options = ("install", "llmbatch", CHART, "--namespace", NAMESPACE)
    without = helm(*options, "--dry-run=client").stdout
    assert "WARNING: KubeRay is not installed" in without
    there = cluster.helm(*options, "--dry-run=server")
    assert "WARNING" not in there
    assert "kubectl --namespace llmbatch-system rollout status deployment/llmbatch" in there


@pytest.mark.parametrize(
    ("nodes", "clusterwide"), [(True, True), (True, False), (False, False)], ids=["all", "named", "named-no-nodes"]
)
def test_the_operator_needs_no_right_that_the_chart_does_not_give(
    cluster: Cluster, nodes: bool, clusterwide: bool
) -> None:
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "--filename", str(CHART.parents[1] / "crds"))
    with namespace(cluster) as into, namespace(cluster) as team, namespace(cluster) as others:
        scope = {} if clusterwide else {"watchNamespaces": [team]}
        values = {**SMALL, **scope, "nodes": {"watch": nodes}, "crds": {"enabled": False}}
        with installed(cluster, f"in-{into}", CHART, into, values):
            for place in (team, others):
                cluster.apply(unschedulable("summarise"), place)
            cluster.wait(lambda: uid(cluster, team))
            cluster.wait(lambda: cluster.condition("Stalled", "summarise", team)[0] == "True")
            assert "Forbidden" not in cluster.condition("Stalled", "summarise", team)[1]
            assert cluster.get("networkpolicy/summarise-ray", "--namespace", team)
            if clusterwide:
                cluster.wait(lambda: uid(cluster, others))
            assert bool(uid(cluster, others)) == clusterwide
            assert complaints(cluster, into) == []


def test_jobs_outlive_an_upgrade_and_the_release(cluster: Cluster, tmp_path: Path) -> None:
    cluster.kubectl("delete", CRD, "--ignore-not-found", "--timeout=3m")
    with namespace(cluster) as into, namespace(cluster) as team:
        with installed(cluster, "llmbatch", previous_chart(tmp_path), into, SMALL):
            assert "ModelName" in columns(cluster)
            cluster.apply(unschedulable("summarise"), team)
            before = cluster.wait(lambda: uid(cluster, team))

            upgrade = ("upgrade", "llmbatch", CHART, "--namespace", into, "--wait", "--timeout=5m")
            cluster.helm(*upgrade, values=SMALL)
            assert "Model" in columns(cluster)
            deployment = cluster.get("deployment/llmbatch", "--namespace", into)
            assert deployment["metadata"]["labels"]["app.kubernetes.io/version"] == "0.1.0"
            assert uid(cluster, team) == before
            cluster.helm(*upgrade, values=SMALL)
            again = cluster.get("deployment/llmbatch", "--namespace", into)
            assert again["metadata"]["generation"] == deployment["metadata"]["generation"], "nothing to roll out"
            assert complaints(cluster, into) == []

        cluster.wait(lambda: left_behind(cluster) == "")
        assert cluster.get("llmbatchjobs/summarise", "--namespace", team)["status"]["attempt"] == 1
        assert uid(cluster, team) == before

        other = ("install", "batch", CHART, "--namespace", into, "--wait", "--timeout=5m")
        assert "invalid ownership metadata" in cluster.helm(*other, values=SMALL, check=False)
        try:
            cluster.helm(*other, "--take-ownership", values=SMALL)
            cluster.kubectl("delete", "llmbatchjobs/summarise", "--namespace", team, "--timeout=3m")
            cluster.wait(lambda: not uid(cluster, team))
        finally:
            cluster.helm("uninstall", "batch", "--namespace", into, "--wait", "--timeout=5m", "--ignore-not-found")
