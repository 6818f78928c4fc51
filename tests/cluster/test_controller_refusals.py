"""What cannot work is said in the status within seconds, and mending it is enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from llmbatch.cluster import paths
from llmbatch.errors import RejectedError
from operatorkit import NOWHERE, Body, Kube, job, kube, operating

pytestmark = pytest.mark.cluster
RULES = [
    {"apiGroups": ["llmbatch.dev"], "resources": ["llmbatchjobs", "llmbatchjobs/status"], "verbs": ["*"]},
    {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["*"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create"]},
    {"apiGroups": [""], "resources": ["configmaps", "serviceaccounts"], "verbs": ["get", "create"]},
    {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": ["get", "create"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
]
NETWORK = {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["get", "create"]}


def limited(api: Kube, folder: Path) -> Path:
    """Return a kubeconfig whose user has a Role of the namespace without network policies."""
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{api.namespace}"
    api.create_at(f"/api/v1/namespaces/{api.namespace}/serviceaccounts", {"metadata": {"name": "limited"}})
    api.create_at(f"{rbac}/roles", {"metadata": {"name": "limited"}, "rules": RULES})
    binding = {
        "metadata": {"name": "limited"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "limited"},
        "subjects": [{"kind": "ServiceAccount", "name": "limited", "namespace": api.namespace}],
    }
    api.create_at(f"{rbac}/rolebindings", binding)
    path = f"/api/v1/namespaces/{api.namespace}/serviceaccounts/limited/token"
    api.wait_for_right("limited", "get", "", "pods")
    token = api.create_at(path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})
    config = yaml.safe_load(api.kubeconfig.read_text())
    config["users"] = [{"name": "limited", "user": {"token": token["status"]["token"]}}]
    for context in config["contexts"]:
        context["context"]["user"] = "limited"
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return file


@contextmanager
def at_most_workers(api: Kube, most: int) -> Iterator[None]:
    """Have the API server refuse RayClusters of the namespace whose first group is larger."""
    root, name = "/apis/admissionregistration.k8s.io/v1", f"workers-{api.namespace}"
    rule = {"apiGroups": ["ray.io"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"]}
    expression = f"object.spec.workerGroupSpecs[0].replicas <= {most}"
    spec = {
        "matchConstraints": {"resourceRules": [{**rule, "resources": ["rayclusters"]}]},
        "validations": [{"expression": expression, "message": f"at most {most} workers"}],
    }
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": api.namespace}}}
    binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": here}
    group = {"groupName": "spot", "template": {}, "replicas": most + 1}
    larger = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "larger"},
        "spec": {"headGroupSpec": {"rayStartParams": {}, "template": {}}, "workerGroupSpecs": [group]},
    }

    def refused() -> bool:
        try:
            api.thread.run(api.client.create(paths.collection("RayCluster", api.namespace), larger, dry_run=True))
        except RejectedError as error:
            return "at most" in str(error)
        return False

    api.create_at(f"{root}/validatingadmissionpolicies", {"metadata": {"name": name}, "spec": spec})
    api.create_at(f"{root}/validatingadmissionpolicybindings", {"metadata": {"name": name}, "spec": binding})
    try:
        api.wait(refused)
        yield
    finally:
        api.delete_at(f"{root}/validatingadmissionpolicybindings/{name}")
        api.delete_at(f"{root}/validatingadmissionpolicies/{name}")


def stalled(api: Kube, reason: str) -> str:
    """Wait until the job says that it stalls for a reason, and return the message."""

    def message() -> str:
        holds, why, text = api.condition("summarise", "Stalled")
        return text if (holds, why) == ("True", reason) else ""

    return api.wait(message)


def moves(api: Kube) -> bool:
    return api.wait(lambda: api.get("RayCluster", "summarise") is not None)


def test_a_right_that_is_missing_is_named_until_it_is_granted(kubeconfig: Path, tmp_path: Path):
    with kube(kubeconfig) as api:
        file = limited(api, tmp_path)
        api.create(job())
        with operating(api, file, watch_nodes=False):
            assert "networkpolicies" in stalled(api, "Forbidden")
            roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{api.namespace}/roles/limited"
            api.patch_at(roles, {"rules": [*RULES, NETWORK]})
            assert moves(api)
            api.wait(lambda: api.condition("summarise", "Stalled")[1] != "Forbidden")


def test_a_child_that_belongs_to_somebody_else_is_left_alone(kubeconfig: Path):
    with kube(kubeconfig) as api:
        theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "summarise-token"}, "data": {"a": "Yg=="}}
        api.create(theirs)
        api.create(job())
        with operating(api):
            assert "Secret summarise-token" in stalled(api, "NameTaken")
            assert api.get("Secret", "summarise-token")["data"] == {"a": "Yg=="}
            assert api.get("RayCluster", "summarise") is None
            api.delete("Secret", "summarise-token")
            assert moves(api)


def test_a_secret_that_is_missing_is_named_until_it_is_there(kubeconfig: Path):
    storage = {"uri": "s3://corpus/in/*.jsonl", "format": "jsonl", "idField": "id", "storage": {"secretName": "s3"}}
    with kube(kubeconfig) as api:
        api.create(job(input=storage))
        with operating(api):
            assert "Secret s3" in stalled(api, "SecretMissing")
            api.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}})
            assert moves(api)


def test_a_field_that_the_api_server_refuses_is_named_until_it_is_mended(kubeconfig: Path):
    with kube(kubeconfig) as api:
        api.create(job(podOverlay={"spec": {"terminationGracePeriodSeconds": "soon"}}))
        with operating(api):
            assert "terminationGracePeriodSeconds" in stalled(api, "Rejected")
            api.patch("LLMBatchJob", "summarise", {"spec": {"podOverlay": {"spec": None}}})
            assert moves(api)
            api.wait(lambda: api.condition("summarise", "Stalled")[1] != "Rejected")


def test_a_resize_that_a_policy_refuses_is_named_until_it_is_not_wanted(kubeconfig: Path):
    def capacity(spot: int) -> Body:
        return {"capacity": {"spot": {"max": spot, "nodeSelector": NOWHERE}, "onDemand": {"nodeSelector": NOWHERE}}}

    [stage] = job()["spec"]["stages"]
    with kube(kubeconfig) as api:
        api.create(job(stages=[{**stage, "replicas": {"max": 4}}], **capacity(2)))
        with operating(api), at_most_workers(api, 2):
            assert moves(api)
            api.patch("LLMBatchJob", "summarise", {"spec": capacity(3)})
            assert "at most 2 workers" in stalled(api, "Rejected")
            [spot, _] = api.get("RayCluster", "summarise")["spec"]["workerGroupSpecs"]
            assert spot["replicas"] == 2
            api.patch("LLMBatchJob", "summarise", {"spec": capacity(2)})
            api.wait(lambda: api.condition("summarise", "Stalled")[1] != "Rejected")


def test_an_overlay_that_is_not_the_users_to_set_is_refused(kubeconfig: Path):
    with kube(kubeconfig) as api:
        api.create(job(podOverlay={"spec": {"nodeName": "here"}}))
        with operating(api):
            api.wait(lambda: api.condition("summarise", "Accepted")[:2] == ("False", "InvalidSpec"))
            assert "spec.podOverlay.spec.nodeName" in api.condition("summarise", "Accepted")[2]
            api.patch("LLMBatchJob", "summarise", {"spec": {"podOverlay": {"spec": {"nodeName": None}}}})
            assert moves(api)


def test_an_accelerator_that_ray_does_not_know_is_refused_before_anything_is_created(kubeconfig: Path):
    with kube(kubeconfig) as api:
        [stage] = job()["spec"]["stages"]
        api.create(job(stages=[{**stage, "resources": {"gpus": 1, "accelerator": "H1000"}}]))
        with operating(api):
            api.wait(lambda: api.condition("summarise", "Accepted")[:2] == ("False", "InvalidSpec"))
            said = api.condition("summarise", "Accepted")[2]
            assert "spec.stages[0].resources.accelerator: 'H1000'" in said
            assert "H100" in said
            assert not api.items("RayCluster")
            assert api.get("Secret", "summarise-token") is None


def test_gpus_that_no_node_has_are_said_with_the_schedulers_words(kubeconfig: Path):
    with kube(kubeconfig) as api:
        api.create(job())
        with operating(api):
            assert "No node takes a head pod" in stalled(api, "Unschedulable")
