"""The test cluster keeps the promises of a kubelet that the other tests rest on."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from testbed.faults import Faults

from operatorkit import Kube, kube

pytestmark = pytest.mark.cluster
Body = dict[str, Any]
SERVER = """
import http.server, json, os, pathlib, signal, socket, sys, time
def address(name):
    try:
        return socket.gethostbyname(name)
    except OSError:
        return ""
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/break":
            pathlib.Path("/tmp/broken").touch()
        self.send_response(500 if self.path == "/healthy" and os.path.exists("/tmp/broken") else 200)
        self.end_headers()
        files = {str(p): p.read_text() for p in pathlib.Path("/data").rglob("*") if p.is_file()}
        addresses = {name: address(name) for name in ("web", "web." + os.environ["NAMESPACE"]) if self.path == "/all"}
        self.wfile.write(json.dumps({"env": dict(os.environ), "files": files, "uid": os.getuid(), "pid": os.getpid(),
            "host": socket.gethostname(), "dns": addresses}).encode())
    log_message = lambda *_: None
def bye(*_):
    time.sleep(float(os.environ["GOODBYE"]))
    sys.exit(0)
signal.signal(signal.SIGTERM, bye)
print("serves", socket.gethostname())
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""


@contextmanager
def machine(api: Kube, gpus: int = 0) -> Iterator[tuple[str, dict[str, str]]]:
    """One node of the test's own: its name and the labels that select it."""
    name, labels = f"machine-{uuid.uuid4().hex[:8]}", {"example.com/test": api.namespace}
    api.thread.run(Faults(api.client).come(name, gpus=gpus, **labels))
    try:
        yield name, labels
    finally:
        api.thread.run(Faults(api.client).vanish(name))


def web(labels: dict[str, str], **changes: Any) -> Body:
    """Return a pod that tells over HTTP what it sees."""

    def named(name: str, field: str) -> Body:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}}

    probe = {
        "httpGet": {"path": "/healthy", "port": 8000},
        "periodSeconds": 1,
        "timeoutSeconds": 5,
        "failureThreshold": 1,
    }
    container = {
        "name": "web",
        "image": "python:3.11",
        "command": ["python", "-c", SERVER],
        "env": [
            {"name": "GOODBYE", "value": "0"},
            {"name": "GREETING", "value": "hello $(NAMESPACE)"},
            named("NAMESPACE", "metadata.namespace"),
            named("IP", "status.podIP"),
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "key"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
        ],
        "envFrom": [{"secretRef": {"name": "keys"}, "prefix": "SECRET_"}, {"configMapRef": {"name": "words"}}],
        "resources": {"requests": {"cpu": "100m"}},
        "startupProbe": {**probe, "failureThreshold": 60},
        "readinessProbe": probe,
        "livenessProbe": {**probe, "failureThreshold": 2},
        "volumeMounts": [
            {"name": name, "mountPath": f"/data/{name}"} for name in ("config", "secret", "token", "scratch")
        ],
        **changes,
    }
    container["env"] = sorted(container["env"], key=lambda variable: variable["name"] == "GREETING")
    token = {"serviceAccountToken": {"path": "token", "audience": "web"}}
    volumes = [
        {"name": "config", "configMap": {"name": "words"}},
        {"name": "secret", "secret": {"secretName": "keys"}},
        {"name": "token", "projected": {"sources": [token]}},
        {"name": "scratch", "emptyDir": {"medium": "Memory"}},
    ]
    metadata = {"name": "web", "labels": {"app": "web"}}
    spec = {"nodeSelector": labels, "containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 5}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def give(api: Kube) -> None:
    """Create what the pod refers to."""
    core = f"/api/v1/namespaces/{api.namespace}"
    api.create_at(f"{core}/secrets", {"metadata": {"name": "keys"}, "stringData": {"key": "s3cr3t"}})
    api.create_at(f"{core}/configmaps", {"metadata": {"name": "words"}, "data": {"WORD": "batch"}})
    service = {"selector": {"app": "web"}, "ports": [{"port": 8000}]}
    api.create_at(f"{core}/services", {"metadata": {"name": "web"}, "spec": service})
    api.wait(lambda: api.get_at(f"{core}/serviceaccounts/default"))


def ready(api: Kube) -> bool:
    pod = api.get("Pod", "web")
    conditions = (pod or {}).get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def container(api: Kube) -> Body:
    return api.get("Pod", "web")["status"]["containerStatuses"][0]


def taints(api: Kube, node: str) -> set[str]:
    return {taint["key"] for taint in api.get_at(f"/api/v1/nodes/{node}")["spec"].get("taints", ())}


def ask(api: Kube, path: str) -> Body:
    proxy = f"/api/v1/namespaces/{api.namespace}/pods/web:8000/proxy{path}"
    return json.loads(api.thread.run(api.client.get_text(proxy, {})))


def all_it_sees(api: Kube) -> Body | None:
    """Return all that the pod sees, once it finds the service by its names."""
    seen = ask(api, "/all")
    return seen if all(seen["dns"].values()) else None


def test_a_container_sees_its_variables_files_and_names(testbed_gateway: str, kubeconfig: Path):
    with kube(kubeconfig) as api, machine(api) as (node, labels):
        api.create(web(labels))
        give(api)
        api.wait(lambda: ready(api))
        seen = api.wait(lambda: all_it_sees(api))
        pod = api.get("Pod", "web")
        env, address = seen["env"], pod["status"]["podIP"]
        assert pod["spec"]["nodeName"] == node
        assert (env["KEY"], env["SECRET_key"], env["WORD"], env["CPU"]) == ("s3cr3t", "s3cr3t", "batch", "1")
        assert (env["IP"], env["GREETING"]) == (address, f"hello {api.namespace}")
        assert (seen["files"]["/data/config/WORD"], seen["files"]["/data/secret/key"]) == ("batch", "s3cr3t")
        assert seen["files"]["/data/token/token"].count(".") == 2, "a JSON web token"
        assert seen["dns"] == {"web": address, f"web.{api.namespace}": address}
        assert (seen["uid"], seen["pid"], seen["host"]) == (1000, 1, "web")
        log = f"/api/v1/namespaces/{api.namespace}/pods/web/log"
        assert "serves web" in api.thread.run(api.client.get_text(log, {}))
        assert api.thread.run(api.client.get_text(log, {}, {"tailLines": "0"})) == ""


def test_probes_decide_on_readiness_and_restarts(testbed_gateway: str, kubeconfig: Path):
    with kube(kubeconfig) as api, machine(api) as (_, labels):
        give(api)
        api.create(web(labels, livenessProbe=None))
        api.wait(lambda: ready(api))
        ask(api, "/break")
        api.wait(lambda: not ready(api))
        assert container(api)["restartCount"] == 0
        api.delete("Pod", "web")
        api.wait(lambda: api.get("Pod", "web") is None)
        api.create(web(labels))
        api.wait(lambda: ready(api))
        ask(api, "/break")
        api.wait(lambda: container(api)["restartCount"] == 1)
        assert container(api)["lastState"]["terminated"]["exitCode"] == 0


@pytest.mark.parametrize(("goodbye", "at_least"), [("0.5", 0.5), ("600", 5.0)], ids=["in time", "too late"])
def test_a_deleted_pod_has_its_grace_and_no_more(testbed_gateway: str, kubeconfig: Path, goodbye: str, at_least: float):
    with kube(kubeconfig) as api, machine(api) as (_, labels):
        give(api)
        pod = web(labels)
        pod["spec"]["containers"][0]["env"][0]["value"] = goodbye
        api.create(pod)
        api.wait(lambda: ready(api))
        began = time.monotonic()
        api.delete("Pod", "web")
        api.wait(lambda: api.get("Pod", "web") is None)
        assert time.monotonic() - began >= at_least


def test_a_machine_that_hangs_takes_its_pods_along_and_comes_back(testbed_gateway: str, kubeconfig: Path):
    with kube(kubeconfig) as api, machine(api) as (node, labels):
        give(api)
        tolerations = [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}]
        pod = web(labels)
        pod["spec"]["tolerations"] = tolerations
        api.create(pod)
        api.wait(lambda: ready(api))
        faults = Faults(api.client)
        api.thread.run(faults.hang(node))
        api.wait(lambda: not ready(api))
        api.wait(lambda: "node.kubernetes.io/unreachable" in taints(api, node))
        api.thread.run(faults.recover(node))
        api.wait(lambda: ready(api))


def test_an_image_that_cannot_be_pulled_is_said(testbed_gateway: str, kubeconfig: Path):
    with kube(kubeconfig) as api, machine(api) as (_, labels):
        give(api)
        api.create(web(labels, image="unreachable.example/web:1"))
        api.wait(lambda: api.get("Pod", "web")["status"].get("containerStatuses"))
        api.wait(lambda: container(api)["state"]["waiting"]["reason"] == "ErrImagePull")
