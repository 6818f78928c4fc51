"""What a user notices of the rendered objects."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from chartkit import CHART, CI_VALUES, NAMESPACE, RELEASE, Rendered, helm, leaves, refusal, render
from llmbatch.core.job.snapshot import OperatorSettings

pytestmark = pytest.mark.chart
CLUSTER_KINDS = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_the_pod_meets_the_restricted_standard(values: Path) -> None:
    objects = render(None, "--values", str(values))
    assert objects.pod["securityContext"]["runAsNonRoot"] is True
    assert objects.pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    security = objects.container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & objects.pod.keys()


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_no_role_has_a_wildcard_or_lists_secrets(values: Path) -> None:
    objects = render(None, "--values", str(values))
    for role in [*objects.of("Role"), *objects.of("ClusterRole")]:
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
            if "secrets" in rule["resources"]:
                assert set(rule["verbs"]) == {"get", "create"}


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_names_and_labels_are_valid(values: Path) -> None:
    long = "a-release-name-that-is-as-long-as-helm-lets-it-become"[:53]
    for item in render(None, "--values", str(values), release=long):
        if item["kind"] != "CustomResourceDefinition":
            assert len(item["metadata"]["name"]) <= 63
        for value in (item["metadata"].get("labels") or {}).values():
            assert len(value) <= 63
            assert not value.endswith(("-", "_", "."))


def test_no_two_objects_share_a_name() -> None:
    objects = render(None, "--values", str(CI_VALUES[0].with_name("full-values.yaml")))
    keys = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in objects]
    assert len(keys) == len(set(keys))


def test_the_operator_may_do_what_its_manual_says(default: Rendered) -> None:
    assert default.verbs("llmbatchjobs") == {"get", "list", "watch"}
    assert default.verbs("llmbatchjobs/status") == {"update"}
    assert default.verbs("rayclusters") == {"get", "list", "watch", "create", "patch", "delete"}
    assert default.verbs("pods") == {"get", "list", "watch"}
    assert default.verbs("nodes") == {"get", "list", "watch"}
    assert default.verbs("namespaces") == set()
    for kind in ("configmaps", "serviceaccounts", "networkpolicies", "poddisruptionbudgets", "secrets"):
        assert default.verbs(kind) == {"get", "create"}


def test_of_named_namespaces_only_their_objects_are_touched() -> None:
    objects = render({"watchNamespaces": ["team-a", "team-b"]})
    assert {role["metadata"]["namespace"] for role in objects.of("Role")} == {"team-a", "team-b"}
    [cluster_role] = [role for role in objects.of("ClusterRole") if role["metadata"]["name"].endswith("-cluster")]
    assert {name for rule in cluster_role["rules"] for name in rule["resources"]} == {
        "customresourcedefinitions",
        "namespaces",
        "nodes",
    }
    assert {"--namespace=team-a", "--namespace=team-b"} <= set(objects.container["args"])


def test_without_nodes_in_named_namespaces_nothing_of_the_cluster_is_needed() -> None:
    values = CI_VALUES[0].with_name("namespaced-values.yaml")
    objects = render(None, "--values", str(values))
    assert not CLUSTER_KINDS & {item["kind"] for item in objects}
    assert objects.verbs("nodes") == objects.verbs("customresourcedefinitions") == set()
    assert "--no-watch-nodes" in objects.container["args"]


def test_without_nodes_there_are_no_rights_on_nodes() -> None:
    objects = render({"nodes": {"watch": False}})
    assert objects.verbs("nodes") == set()
    assert objects.verbs("customresourcedefinitions") == {"list", "watch"}
    assert "--no-watch-nodes" in objects.container["args"]


def test_without_network_policies_of_jobs_there_are_no_rights_on_them() -> None:
    objects = render({"settings": {"networkPolicy": False}})
    assert objects.verbs("networkpolicies") == set()
    assert objects.settings["networkPolicy"] is False


def test_the_clusters_own_roles_get_jobs(default: Rendered) -> None:
    view, edit = default.one("ClusterRole", "-view"), default.one("ClusterRole", "-edit")
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert {verb for rule in view["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert "llmbatchjobs/status" not in edit["rules"][0]["resources"]


def test_the_definition_outlives_the_release_unless_told_otherwise(default: Rendered) -> None:
    kept = default.one("CustomResourceDefinition")["metadata"]["annotations"]
    assert kept == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in render({"crds": {"keep": False}}).one("CustomResourceDefinition")["metadata"]
    assert render({"crds": {"enabled": False}}).of("CustomResourceDefinition") == []


def test_one_operator_at_a_time(default: Rendered) -> None:
    assert default.one("Deployment")["spec"]["replicas"] == 1
    assert default.one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}


def test_images_follow_the_version_a_tag_or_a_digest() -> None:
    digest = f"sha256:{'0' * 64}"
    assert render().container["image"] == "ghcr.io/llmbatch/operator:0.1.0"
    assert render({"image": {"tag": "main"}}).container["image"] == "ghcr.io/llmbatch/operator:main"
    chosen = {"repository": "r.example/o", "tag": "main", "digest": digest}
    assert render({"image": chosen}).container["image"] == f"r.example/o@{digest}"
    assert render({"runtime": {"image": chosen}}).settings["image"] == f"r.example/o@{digest}"


def test_the_operator_takes_the_settings() -> None:
    objects = render(None, "--values", str(CI_VALUES[0].with_name("full-values.yaml")))
    settings = OperatorSettings.model_validate(objects.settings)
    assert settings.operator_namespace == NAMESPACE
    assert settings.object_store_bytes == 2_000_000_000
    assert [signal.name for signal in settings.signals] == ["my-cloud", "node cordoned"]
    assert settings.image == "registry.example/ml/runtime:1"
    assert OperatorSettings.model_validate(render().settings).image == "ghcr.io/llmbatch/runtime:0.1.0"


def test_a_change_of_the_settings_starts_the_operator_anew() -> None:
    def template(values: dict) -> dict:
        return render(values).one("Deployment")["spec"]["template"]["metadata"]["annotations"]

    assert template({}) == template({"metrics": {"serviceMonitor": {"enabled": True}}})
    assert template({}) != template({"settings": {"graceSeconds": 100}})
    assert template({}) != template({"signals": [{"name": "x", "place": "nodeCordon", "kind": "lost"}]})


def test_the_network_policy_lets_the_operator_work() -> None:
    policy = render({"networkPolicy": {"enabled": True}}).one("NetworkPolicy")["spec"]
    ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert ports == {53, 443, 6443, 8265, 8200}
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": "metrics"}]}]
    assert render().of("NetworkPolicy") == []


def test_what_is_scraped_is_the_operator() -> None:
    objects = render({"metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}})
    monitor, service = objects.one("ServiceMonitor"), objects.one("Service")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    labels = objects.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    [port], [endpoint] = service["spec"]["ports"], monitor["spec"]["endpoints"]
    assert port["name"] == endpoint["port"]
    assert port["targetPort"] in {item["name"] for item in objects.container["ports"]}
    assert "ServiceMonitor" not in {item["kind"] for item in render()}


def test_common_labels_are_on_every_object_and_not_in_the_selector() -> None:
    objects = render(None, "--values", str(CI_VALUES[0].with_name("full-values.yaml")))
    own = [item for item in objects if "helm.sh/chart" in (item["metadata"].get("labels") or {})]
    assert len(own) == len(objects) - 2  # the two of extraObjects
    assert all(item["metadata"]["labels"]["team"] == "ml-platform" for item in own)
    assert "team" not in objects.one("Deployment")["spec"]["selector"]["matchLabels"]


def test_extra_objects_are_templates() -> None:
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}}
    assert render({"extraObjects": [item]}).one("ConfigMap", "-more")["metadata"]["name"] == "llmbatch-more"
    assert render({"extraObjects": [yaml.safe_dump(item)]}).one("ConfigMap", "-more")


def test_rendering_twice_gives_the_same() -> None:
    assert list(leaves(list(render()))) == list(leaves(list(render())))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": 2}, "at '/replicas': value must be one of 0, 1"),
        ({"watchNamspaces": ["a"]}, "additional properties 'watchNamspaces' not allowed"),
        ({"watchNamespaces": ["Team A"]}, "at '/watchNamespaces/0': 'Team A' does not match pattern"),
        ({"watchNamespaces": "team-a"}, "at '/watchNamespaces': got string, want array"),
        ({"nodes": {"watch": "no"}}, "at '/nodes/watch': got string, want boolean"),
        ({"image": {"digest": "latest"}}, "at '/image/digest': 'latest' does not match pattern"),
        ({"logLevel": "verbose"}, "at '/logLevel': value must be one of 'debug', 'info', 'warning'"),
        ({"settings": {"graceSeconds": 0}}, "at '/settings/graceSeconds': minimum: got 0, want 1"),
        ({"settings": {"gpuResorce": "x"}}, "at '/settings': additional properties 'gpuResorce' not allowed"),
        ({"settings": {"image": "x"}}, "at '/settings': additional properties 'image' not allowed"),
        ({"signals": [{"name": "x", "place": "nodeTaint", "kind": "lost"}]}, "missing property 'key'"),
        ({"signals": [{"name": "x", "place": "nodeCordon", "key": "k", "kind": "lost"}]}, "value must be ''"),
        ({"networkPolicy": {"apiServerPorts": []}}, "at '/networkPolicy/apiServerPorts': minItems: got 0, want 1"),
    ],
    ids=str,
)
def test_a_bad_value_is_refused_by_name(values: dict, said: str) -> None:
    assert said in refusal(values)


def test_an_old_kubernetes_is_refused() -> None:
    done = helm("template", RELEASE, CHART, "--kube-version", "1.30.0", check=False)
    assert done.returncode != 0
    assert "kubeVersion: >=1.31.0-0" in done.stderr
