"""The objects a job owns: what a cluster's users and administrators rely on."""

import contextlib
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes import client
from pydantic import ValidationError

from controllerkit import GPU_STAGE, SETTINGS, SPOT, UID, job, spec
from llmbatch.api.runspec import RunSpec
from llmbatch.core.job.admission import ACCELERATORS, check_admission
from llmbatch.core.job.children import build_children
from llmbatch.core.job.children.cluster import build_ray_cluster
from llmbatch.core.job.children.names import child_name, cluster_name
from llmbatch.core.job.children.overlay import CONTAINER_FIELDS, POD_FIELDS, merge_overlay
from llmbatch.core.job.children.pods import cores
from llmbatch.core.job.children.support import build_network_policy, build_secret, run_spec_name, run_spec_of
from llmbatch.core.job.snapshot import OperatorSettings
from llmbatch.errors import SpecError


def children(name: str = "summarise", **changes: Any) -> list[dict[str, Any]]:
    return build_children(job(name), spec(**changes), SETTINGS)


def cluster(**changes: Any) -> dict[str, Any]:
    return children(**changes)[-1]["spec"]


def head(**changes: Any) -> dict[str, Any]:
    return cluster(**changes)["headGroupSpec"]["template"]


def worker(group: int = 0, **changes: Any) -> dict[str, Any]:
    return cluster(**changes)["workerGroupSpecs"][group]["template"]


def test_every_child_goes_with_its_job():
    for child in children():
        [owner] = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (UID, True, True)
        assert child["metadata"]["namespace"] == "team"
        assert child["metadata"]["labels"]["llmbatch.dev/job"] == "summarise"
        # Argo CD would prune children that carry its tracking label.
        assert "app.kubernetes.io/instance" not in child["metadata"]["labels"]


def test_children_are_the_same_each_time():
    assert children() == children()


JOB_NAMES = st.from_regex(r"^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$", fullmatch=True)


@given(JOB_NAMES)
def test_names_fit_kubernetes_and_kuberay(name: str):
    assert len(cluster_name(name)) <= 53
    assert cluster_name(name)[0].isalpha()
    assert cluster_name(name)[-1].isalnum()
    assert all(len(child["metadata"]["name"]) <= 63 for child in children(name))


@given(JOB_NAMES, JOB_NAMES, st.sampled_from(["ray", "token", "head"]))
def test_two_jobs_share_no_name(first: str, second: str, role: str):
    if first != second:
        assert cluster_name(first) != cluster_name(second)
        assert child_name(first, role) != child_name(second, role)


def test_the_head_is_on_demand_and_offers_no_cpu_to_the_pipeline():
    template = head()
    assert cluster()["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert template["spec"]["nodeSelector"] == {"example.com/capacity": "on-demand"}
    assert template["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    [budget] = [child for child in children() if child["kind"] == "PodDisruptionBudget"]
    assert budget["spec"]["selector"]["matchLabels"] == {"ray.io/cluster": "summarise", "ray.io/node-type": "head"}


def test_a_head_without_a_selector_of_its_own_stays_off_spot_nodes():
    spot = {"max": 4, "nodeSelector": {"market": "spot", "gpu": "L4"}}
    capacity = {"spot": spot, "onDemand": {"max": 1}}
    rules = head(capacity=capacity)["spec"]["affinity"]["nodeAffinity"]
    terms = rules["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [term["matchExpressions"] for term in terms] == [
        [{"key": "gpu", "operator": "NotIn", "values": ["L4"]}],
        [{"key": "market", "operator": "NotIn", "values": ["spot"]}],
    ]
    on_spot_nodes = {"spot": spot, "onDemand": {"max": 1, "nodeSelector": spot["nodeSelector"]}}
    assert "affinity" not in head(capacity=on_spot_nodes)["spec"]


def test_workers_are_placed_by_their_group():
    spot, on_demand = worker(0), worker(1)
    assert spot["metadata"]["labels"]["llmbatch.dev/capacity"] == "spot"
    assert on_demand["metadata"]["labels"]["llmbatch.dev/capacity"] == "on-demand"
    assert spot["spec"]["nodeSelector"] == {"example.com/capacity": "spot"}
    assert SPOT in spot["spec"]["tolerations"]
    assert SPOT not in on_demand["spec"]["tolerations"]


def test_a_worker_on_a_silent_node_is_given_up_in_seconds():
    tolerated = {t["key"]: t.get("tolerationSeconds") for t in worker()["spec"]["tolerations"]}
    assert tolerated["node.kubernetes.io/unreachable"] == tolerated["node.kubernetes.io/not-ready"] == 15


def environment(pod: dict) -> dict:
    return {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}


def test_ray_drains_itself_before_the_kubelet_kills():
    pod = worker()["spec"]
    assert int(environment(pod)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < pod["terminationGracePeriodSeconds"]


def test_processes_that_stand_by_on_a_worker_have_imported_what_a_replica_needs():
    modules = environment(worker()["spec"])["RAY_preload_python_modules"].split(",")
    assert modules == ["ray.data", "llmbatch.runtime.stages"]


@pytest.mark.parametrize(("stages", "chosen", "gpus"), [([1, 2], None, "2"), ([0, 0], None, None), ([1], 4, "4")])
def test_a_worker_has_the_gpus_of_the_largest_replica(stages: list[int], chosen: int | None, gpus: str | None):
    pods = worker(
        stages=[{**GPU_STAGE, "name": f"s{i}", "resources": {"gpus": count}} for i, count in enumerate(stages)],
        capacity={"spot": {"max": 1}, "gpusPerWorker": chosen},
    )
    resources = pods["spec"]["containers"][0]["resources"]
    assert resources["limits"].get("nvidia.com/gpu") == resources["requests"].get("nvidia.com/gpu") == gpus
    assert any(t["key"] == "nvidia.com/gpu" for t in pods["spec"]["tolerations"]) == (gpus is not None)


@pytest.mark.parametrize(("resources", "per_worker", "cpu"), [({"cpus": 7.5}, None, "9"), ({"gpus": 1}, 8, "9")])
def test_a_worker_has_the_cores_of_its_replicas_and_one_for_reading_and_committing(
    resources: dict[str, Any], per_worker: int | None, cpu: str
):
    capacity = {"spot": {"max": 1}, "gpusPerWorker": per_worker}
    pods = worker(stages=[{**GPU_STAGE, "resources": resources}], capacity=capacity)
    assert pods["spec"]["containers"][0]["resources"]["requests"]["cpu"] == cpu


@pytest.mark.parametrize(("quantity", "value"), [("4", 4.0), ("500m", 0.5), ("1.5", 1.5)])
def test_cpu_quantities(quantity: str, value: float):
    assert cores(quantity) == pytest.approx(value)


def test_pods_meet_the_restricted_standard():
    for template in (head(), worker(0), worker(1)):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        [container] = pod["containers"]
        security = container["securityContext"]
        assert security == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_the_token_stands_in_the_secret_alone():
    secret = build_secret(job(), token="s3cr3t")
    assert secret["stringData"] == {"auth_token": "s3cr3t"}
    assert "stringData" not in build_secret(job())
    [env] = [e for e in head()["spec"]["containers"][0]["env"] if e["name"] == "LLMBATCH_TOKEN"]
    assert env["valueFrom"] == {"secretKeyRef": {"name": secret["metadata"]["name"], "key": "auth_token"}}
    assert cluster()["authOptions"] == {"mode": "token", "secretName": secret["metadata"]["name"]}
    assert not any(e["name"] == "LLMBATCH_TOKEN" for e in worker()["spec"]["containers"][0]["env"])


def test_the_runtime_reads_the_run_spec_where_it_is_mounted():
    objects = {child["kind"]: child for child in children()}
    config = objects["ConfigMap"]
    document = RunSpec.model_validate_json(config["data"]["runspec.json"])
    assert (document.job, document.uid, document.spec) == ("team/summarise", UID, spec())
    pod = objects["RayCluster"]["spec"]["headGroupSpec"]["template"]["spec"]
    assert pod["volumes"] == [{"name": "run-spec", "configMap": {"name": config["metadata"]["name"]}}]
    assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == "/etc/llmbatch"


def test_a_changed_spec_gets_another_run_spec():
    first, second = (run_spec_of(job(), spec(failurePolicy={"maxErrorRate": rate})) for rate in (0.1, 0.2))
    assert run_spec_name(job(), first) != run_spec_name(job(), second)


def test_secrets_of_the_stores_become_environment_variables():
    stored = {"uri": "s3://a/", "format": "jsonl", "storage": {"secretName": "reader"}}
    for template in (head(input=stored), worker(input=stored)):
        assert template["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "reader"}}]


def test_only_the_operator_and_the_job_reach_the_jobs_api():
    [policy] = [child for child in children() if child["kind"] == "NetworkPolicy"]
    own, operator = policy["spec"]["ingress"]
    assert own["from"] == [{"podSelector": {"matchLabels": {"llmbatch.dev/job": "summarise"}}}]
    assert [port["port"] for port in operator["ports"]] == [8265, 8200]
    assert all(
        template["metadata"]["labels"]["llmbatch.dev/job"] == "summarise" for template in (head(), worker(0), worker(1))
    )


def test_settings_let_others_reach_single_ports():
    settings = OperatorSettings.model_validate(
        {
            "headFrom": [{"ipBlock": {"cidr": "10.0.0.0/28", "except": ["10.0.0.4/32"]}}],
            "rayMetricsFrom": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}, "podSelector": {}}],
        }
    )
    _, head_rule, metrics_rule = build_network_policy(job(), settings)["spec"]["ingress"]
    assert head_rule["from"][1] == {"ipBlock": {"cidr": "10.0.0.0/28", "except": ["10.0.0.4/32"]}}
    assert [port["port"] for port in head_rule["ports"]] == [8265, 8200]
    [prometheus] = metrics_rule["from"]
    assert prometheus["namespaceSelector"]["matchLabels"] == {"team": "monitoring"}
    assert [port["port"] for port in metrics_rule["ports"]] == [8080]


@pytest.mark.parametrize(
    ("peer", "complaint"),
    [
        ({}, "must have either ipBlock, or"),
        ({"ipBlock": {"cidr": "10.0.0.0/28"}, "podSelector": {}}, "must have either ipBlock, or"),
        ({"ipBlock": {"cidr": "10.0.0.1/28"}}, "'10.0.0.1/28'"),
        ({"ipBlock": {"cidr": "everywhere"}}, "'everywhere'"),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}, "'In', 'NotIn', 'Exists'"),
        ({"cidr": "10.0.0.0/28"}, "Extra inputs are not permitted"),
    ],
)
def test_a_peer_that_is_none_is_refused(peer: dict[str, Any], complaint: str):
    with pytest.raises(ValidationError, match=re.escape(complaint)):
        OperatorSettings.model_validate({"headFrom": [peer]})


def test_kueue_gets_a_suspended_cluster_with_its_queue():
    queued = job(labels={"kueue.x-k8s.io/queue-name": "gpus", "other": "label"})
    manifest = build_ray_cluster(queued, spec(), SETTINGS, "run")
    assert manifest["spec"]["suspend"] is True
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert "other" not in manifest["metadata"]["labels"]


def test_every_group_states_its_bounds():
    for group, size in zip(
        build_ray_cluster(job(), spec(), SETTINGS, "run", {"spot": 3})["spec"]["workerGroupSpecs"], (3, 0), strict=True
    ):
        assert (group["replicas"], group["minReplicas"]) == (size, 0)
        assert group["maxReplicas"] > 10_000


# -- podOverlay ------------------------------------------------------------------------------------


def test_an_overlay_adds_and_replaces_by_name():
    overlay = {
        "metadata": {"labels": {"team": "nlp"}},
        "spec": {
            "serviceAccountName": "reader",
            "tolerations": [{"key": "mine", "operator": "Exists"}],
            "volumes": [{"name": "cache", "emptyDir": {}}],
            "containers": [
                {
                    "name": "ray",
                    "env": [{"name": "HF_HOME", "value": "/cache"}],
                    "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                    "resources": {"requests": {"cpu": "12"}},
                },
                {"name": "logs", "image": "fluent-bit:4"},
            ],
        },
    }
    pod = worker(podOverlay=overlay)["spec"]
    ray, logs = pod["containers"]
    assert pod["serviceAccountName"] == "reader"
    assert {"key": "mine", "operator": "Exists"} in pod["tolerations"]
    assert SPOT in pod["tolerations"]
    assert ray["image"] == SETTINGS.image
    assert ray["resources"]["requests"]["cpu"] == "12"
    assert ray["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "HF_HOME", "value": "/cache"} in ray["env"]
    assert logs == {"name": "logs", "image": "fluent-bit:4"}
    [first, _] = head(podOverlay=overlay)["spec"]["containers"]
    assert [mount["mountPath"] for mount in first["volumeMounts"]] == ["/etc/llmbatch", "/cache"]
    assert head(podOverlay=overlay)["metadata"]["labels"]["team"] == "nlp"


def test_null_in_an_overlay_removes_a_field():
    assert "securityContext" not in worker(podOverlay={"spec": {"securityContext": None}})["spec"]


@pytest.mark.parametrize(
    ("overlay", "field"),
    [
        ({"kind": "Pod"}, "spec.podOverlay.kind"),
        ({"metadata": {"labels": {1: "a"}}}, "spec.podOverlay.metadata.labels[1]"),
        ({"spec": []}, "spec.podOverlay.spec"),
        ({"spec": {"tolerationz": []}}, "spec.podOverlay.spec.tolerationz"),
        ({"spec": {"nodeName": "a"}}, "spec.podOverlay.spec.nodeName"),
        ({"spec": {"restartPolicy": "Never"}}, "spec.podOverlay.spec.restartPolicy"),
        ({"spec": {"containers": {"name": "ray"}}}, "spec.podOverlay.spec.containers"),
        ({"spec": {"containers": None}}, "spec.podOverlay.spec.containers"),
        ({"spec": {"containers": [{"image": "x"}]}}, "spec.podOverlay.spec.containers[0]"),
        ({"spec": {"containers": [{"name": "raay", "env": []}]}}, "spec.podOverlay.spec.containers[raay].image"),
        ({"spec": {"containers": [{"name": "ray", "imagee": "x"}]}}, "spec.podOverlay.spec.containers[ray].imagee"),
        ({"spec": {"containers": [{"name": "ray", "args": []}]}}, "spec.podOverlay.spec.containers[ray].args"),
        (
            {"spec": {"containers": [{"name": "ray", "env": [{"name": "RAY_AUTH_TOKEN", "value": "x"}]}]}},
            "spec.podOverlay.spec.containers[ray].env",
        ),
        ({"spec": {"initContainers": [{"name": "pull"}]}}, "spec.podOverlay.spec.initContainers[pull].image"),
        ({"spec": {"volumes": None}}, "spec.podOverlay.spec.volumes"),
        ({"spec": {"volumes": [{"name": ["x"]}]}}, "spec.podOverlay.spec.volumes[0]"),
        ({"spec": {"volumes": ["x"]}}, "spec.podOverlay.spec.volumes[0]"),
        ({"spec": {"tolerations": "x"}}, "spec.podOverlay.spec.tolerations"),
        ({"metadata": {"name": "x"}}, "spec.podOverlay.metadata.name"),
        ({"metadata": {"labels": {"ray.io/cluster": "x"}}}, "spec.podOverlay.metadata.labels[ray.io/cluster]"),
        ({"metadata": {"annotations": {"a": 1}}}, "spec.podOverlay.metadata.annotations[a]"),
    ],
)
def test_a_wrong_overlay_is_refused_by_field(overlay: dict[str, Any], field: str):
    with pytest.raises(SpecError, match="^" + field.replace("[", r"\[").replace("]", r"\]") + ": "):
        head(podOverlay=overlay)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*POD_FIELDS, "name", "x"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "x"]), JSON))
def test_any_overlay_is_merged_or_refused(overlay: dict[str, Any]):
    template = head()
    before = json.dumps(template)
    with contextlib.suppress(SpecError):
        assert merge_overlay(template, overlay)["spec"]["containers"][0]["name"] == "ray"
    assert json.dumps(template) == before


def test_the_known_fields_are_kubernetes_own():
    assert set(client.V1PodSpec.attribute_map.values()) >= POD_FIELDS
    assert set(client.V1Container.attribute_map.values()) >= CONTAINER_FIELDS


# -- admission -------------------------------------------------------------------------------------


def test_the_accelerators_are_rays():
    package = find_spec("ray")
    assert package is not None
    assert package.origin is not None
    source = (Path(package.origin).parent / "util/accelerators/accelerators.py").read_text(encoding="utf-8")
    names = {
        line.split('"')[1] for line in source.splitlines() if " = " in line and not line.startswith(("#", "APPLE"))
    }
    assert set(ACCELERATORS) == names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": {}}, "spec.capacity: 'no workers'"),
        ({"capacity": {"spot": {"max": 1}, "gpusPerWorker": 0}}, r"spec.stages\[0\].resources.gpus: 1: "),
        (
            {"stages": [{**GPU_STAGE, "resources": {"gpus": 1, "accelerator": "H1000"}}]},
            r"spec.stages\[0\].resources.accelerator: 'H1000': .*H100",
        ),
    ],
)
def test_a_job_that_can_never_run_is_refused(changes: dict[str, Any], message: str):
    check_admission(spec())
    with pytest.raises(SpecError, match=message):
        check_admission(spec(**changes))
