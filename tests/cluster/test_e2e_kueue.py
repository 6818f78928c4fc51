"""Jobs in a queue of a real Kueue: it holds them back, admits them, and takes their cluster back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testbed.kueue import Kueue
from testbed.store import Store

from e2ekit import PATIENCE, condition, done, world
from llmbatch.api.base import KIND
from llmbatch.api.job import RowProgress
from llmbatch.api.progress import Progress
from llmbatch.errors import LLMBatchError
from operatorkit import HeadServer, Kube, Kubelet, head, job, kube, kubelet, operating

pytestmark = pytest.mark.cluster
GROUP = "/apis/kueue.x-k8s.io/v1beta2"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
ALL_ROWS = RowProgress(percentage=100.0, rows_total=10, rows_completed=10)
QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"


@pytest.fixture(scope="module")
def kueue(kubeconfig: Path, testbed_gateway: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run Kueue for these tests, and return the kubeconfig. Its webhooks are gone afterwards: nobody answers them."""
    if why := Kueue.missing():
        pytest.skip(f"no Kueue: {why}")
    with kube(kubeconfig) as api:
        for definition in Kueue.definitions():
            api.apply_at(f"{DEFINITIONS}/{definition['metadata']['name']}", definition)
        for kind in ("workloads", "clusterqueues", "localqueues", "resourceflavors", "workloadpriorityclasses"):
            api.wait(lambda path=f"{GROUP}/{kind}": answered(lambda: api.get_at(path)))
        manager = Kueue(tmp_path_factory.mktemp("kueue"), kubeconfig)
        hooks = {path_of(configuration): configuration for configuration in manager.webhooks()}
        try:
            for path, configuration in hooks.items():
                api.apply_at(path, configuration)
            api.wait(lambda: admits_a_flavor(api, manager))
            yield kubeconfig
        finally:
            for path in hooks:
                api.delete_at(path)
            manager.stop()


def path_of(configuration: dict[str, Any]) -> str:
    return f"{ADMISSION}/{configuration['kind'].lower()}s/{configuration['metadata']['name']}"


def admits_a_flavor(api: Kube, manager: Kueue) -> bool:
    """Tell whether Kueue's webhooks answer, by making the flavor that these tests use."""
    manager.check()
    flavor = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": "any"}}
    return answered(lambda: api.apply_at(f"{GROUP}/resourceflavors/any", flavor))


def answered(request: Callable[[], object]) -> bool:
    """Tell whether a request is answered well: new kinds and webhooks take a moment."""
    try:
        return request() is not None
    except LLMBatchError:
        return False


def queue(api: Kube, gpus: int, **spec: Any) -> None:
    """Make a queue of this namespace with so many GPUs."""
    quota = {"cpu": "100", "memory": "500Gi", "nvidia.com/gpu": str(gpus)}
    flavor = {"name": "any", "resources": [{"name": name, "nominalQuota": size} for name, size in quota.items()]}
    cluster_queue = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "ClusterQueue",
        "metadata": {"name": api.namespace},
        "spec": {
            "namespaceSelector": {},
            "resourceGroups": [{"coveredResources": list(quota), "flavors": [flavor]}],
            "preemption": {"withinClusterQueue": "LowerPriority"},
            **spec,
        },
    }
    api.apply_at(f"{GROUP}/clusterqueues/{api.namespace}", cluster_queue)
    local = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "LocalQueue",
        "metadata": {"name": "gpus"},
        "spec": {"clusterQueue": api.namespace},
    }
    api.apply_at(f"{GROUP}/namespaces/{api.namespace}/localqueues/gpus", local)


def priorities(api: Kube) -> None:
    """Make two classes, `low` and `high`."""
    for name, value in (("low", 1), ("high", 100)):
        priority = {
            "apiVersion": "kueue.x-k8s.io/v1beta2",
            "kind": "WorkloadPriorityClass",
            "metadata": {"name": name},
            "value": value,
        }
        api.apply_at(f"{GROUP}/workloadpriorityclasses/{name}", priority)


def queued(name: str, nodes: Kubelet, **labels: str) -> dict[str, Any]:
    return labelled(job(name, capacity=nodes.capacity()), **labels)


def labelled(document: dict[str, Any], **labels: str) -> dict[str, Any]:
    """Return a job for the queue."""
    return {**document, "metadata": {**document["metadata"], "labels": {QUEUE: "gpus", **labels}}}


def workload(api: Kube, name: str) -> dict[str, Any]:
    """Return the Workload of a job's RayCluster; empty while there is none."""
    found = api.get_at(f"{GROUP}/namespaces/{api.namespace}/workloads")["items"]
    mine = (item for item in found if item["metadata"]["ownerReferences"][0]["name"] == name)
    return next(mine, {})


def holds(item: dict[str, Any], kind: str) -> bool:
    conditions = item.get("status", {}).get("conditions", [])
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


def runs(api: Kube, server: HeadServer, name: str, attempt: int = 1) -> str:
    submission = f"{api.job(name)['metadata']['uid']}-{attempt}"
    api.wait(lambda: submission in server.jobs)
    api.wait(lambda: api.condition(name, "Running")[0] == "True")
    return submission


def test_a_job_waits_for_its_quota_runs_and_gives_it_back(kueue: Path):
    with kube(kueue) as api, kubelet(api) as nodes:
        queue(api, gpus=1)
        nodes.may_run.clear()
        api.create(queued("summarise", nodes))
        with operating(api), head(api, nodes) as server:
            api.wait(lambda: api.condition("summarise", "ClusterReady")[1] == "Queued")
            assert "queue gpus" in api.condition("summarise", "ClusterReady")[2]
            api.wait(lambda: workload(api, "summarise"))
            assert not holds(workload(api, "summarise"), "Admitted")
            assert api.job("summarise")["status"]["phase"] == "Pending"
            assert api.items("Pod") == []
            nodes.may_run.set()
            queue(api, gpus=2)
            submission = runs(api, server, "summarise")
            assert holds(workload(api, "summarise"), "Admitted")
            server.end(submission, Progress(state="complete", rows=ALL_ROWS))
            api.wait(lambda: api.condition("summarise", "Complete")[0] == "True")
            api.wait(lambda: workload(api, "summarise") == {})


def test_a_job_of_higher_priority_takes_the_cluster_and_nothing_counts_against_the_other(kueue: Path):
    with kube(kueue) as api, kubelet(api) as nodes:
        priorities(api)
        queue(api, gpus=2)
        nodes.may_run.clear()
        api.create(queued("slow", nodes, **{PRIORITY: "low"}))
        with operating(api), head(api, nodes, "slow") as server:
            nodes.may_run.set()
            runs(api, server, "slow")
            api.create(queued("urgent", nodes, **{PRIORITY: "high"}))
            api.wait(lambda: holds(workload(api, "urgent"), "Admitted"))
            api.wait(lambda: api.condition("slow", "ClusterReady")[1] == "Queued")
            api.wait(lambda: api.job("slow")["status"]["interruptions"] == 1)
            status = api.job("slow")["status"]
            assert (status["failures"], (status.get("preemptions") or {}).get("total", 0)) == (0, 0)
            assert status["phase"] == "Pending"
            server.jobs.clear()
            api.delete(KIND, "urgent")
            runs(api, server, "slow", 2)


@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_rows_on_real_ray_wait_for_the_quota_and_outlive_its_loss(kueue: Path, store: Store, tmp_path: Path):
    with world(kueue, store, tmp_path) as (rows, controller, _):
        rows.fill(80)
        rows.come("on-demand")
        rows.come("spot")
        document = rows.job(seconds_per_row=1, workers=1)
        document["spec"]["stages"] = document["spec"]["stages"][:1]
        urgent = {**document, "metadata": {"name": "urgent"}}
        urgent["spec"] = {
            **document["spec"],
            "output": {**document["spec"]["output"], "uri": f"s3://{rows.bucket}/else"},
        }
        priorities(rows.api)
        queue(rows.api, gpus=0)
        rows.api.create(labelled(document, **{PRIORITY: "low"}))
        controller.start()
        rows.until("in the queue", lambda _: rows.api.condition(rows.name, "ClusterReady")[1] == "Queued")
        assert rows.api.items("Pod") == []

        queue(rows.api, gpus=1)
        rows.until("rows are committed", done)
        rows.api.create(labelled(urgent, **{PRIORITY: "high"}))
        kept = rows.until("the cluster is taken", lambda status: status["interruptions"] == 1)
        rows.until_true("the other one has it", lambda: holds(workload(rows.api, "urgent"), "Admitted"))
        rows.api.delete(KIND, "urgent")

        rows.until("it runs again", lambda status: condition(status, "Running") == "True" and status["attempt"] == 2)
        ended = rows.until("complete", lambda status: status.get("phase") == "Complete")
        assert done(kept) < done(ended) == len(rows.ids)
        assert (ended["failures"], ended.get("preemptions", {}).get("total", 0)) == (0, 0)
        assert Counter(row["id"] for row in rows.rows()) == Counter(rows.ids)
        rows.api.wait(lambda: workload(rows.api, rows.name) == {}, PATIENCE)
