"""A watch that begins again: what was deleted meanwhile is told, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import kopf
import pytest
from aiohttp import web
from kopf._cogs.aiokits import aiotoggles
from kopf._cogs.clients import watching
from kubernetes.aio.client import Configuration

from llmbatch.cluster.client import KubeClient
from llmbatch.controller.app import Operator, Options
from llmbatch.controller.relist import tell_missed_deletions
from llmbatch.core.job.snapshot import OperatorSettings
from serverkit import answering

Body = dict[str, Any]
LISTED = watching.Bookmark.LISTED
JOB_LABELS = {"llmbatch.dev/job": "summarise", "example.com/other": "x"}


def pod(uid: str, name: str | None = None) -> Body:
    metadata = {"namespace": "team", "name": name or uid, "uid": uid, "labels": JOB_LABELS, "annotations": {"a": "b"}}
    return {"metadata": metadata, "spec": {"nodeName": "n1"}}


def shown(kind: str | None, *pods: Body) -> list[Any]:
    return [{"type": kind, "object": body} for body in pods]


def told(watches: list[list[Any]], monkeypatch: pytest.MonkeyPatch, *, own: bool = False) -> list[Any]:
    """Return the events that kopf is given where its watches, each of which begins with a list, show these.

    `own`: the watch is one by which kopf looks for resources.
    """
    left, ended = list(watches), asyncio.Event()

    async def one_watch(**_: Any) -> AsyncIterator[Any]:
        if not left:
            ended.set()
            await asyncio.Event().wait()
        for event in left.pop(0):
            yield event

    async def collect() -> list[Any]:
        events: list[Any] = []
        settings = kopf.OperatorSettings()
        settings.watching.reconnect_backoff = 0
        asked = {"settings": settings, "resource": "pods.v1", "namespace": None}
        paused = None if own else aiotoggles.ToggleSet(any)

        async def watch() -> None:
            async for event in watching.infinite_watch(operator_paused=paused, **asked):
                events.append(event)

        task = asyncio.create_task(watch())
        await asyncio.wait_for(ended.wait(), 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return events

    monkeypatch.setattr(watching, "infinite_watch", watching.infinite_watch)
    monkeypatch.setattr(watching, "continuous_watch", one_watch)
    assert tell_missed_deletions(), "kopf changed: see controller/relist.py"
    return asyncio.run(collect())


def deletions(events: list[Any]) -> list[tuple[str, str]]:
    """Return name and uid of what was told as deleted, in order."""
    found = [event["object"]["metadata"] for event in events if event is not LISTED and event["type"] == "DELETED"]
    return [(metadata["name"], metadata["uid"]) for metadata in found]


def test_what_a_list_leaves_out_is_told_as_deleted_with_what_the_handlers_read(monkeypatch: pytest.MonkeyPatch):
    first = [*shown(None, pod("a"), pod("b")), LISTED, *shown("ADDED", pod("c")), *shown("MODIFIED", pod("c"))]
    again = [*shown(None, pod("b")), LISTED]
    events = told([first, again], monkeypatch)
    a, c = ({"namespace": "team", "name": x, "uid": x, "labels": {"llmbatch.dev/job": "summarise"}} for x in "ac")
    gone = [{"type": "DELETED", "object": {"metadata": metadata}} for metadata in (a, c)]
    assert events == [*first, again[0], *gone, LISTED]


def test_it_is_told_once(monkeypatch: pytest.MonkeyPatch):
    watches = [[*shown(None, pod("a")), LISTED], [LISTED], [LISTED]]
    assert deletions(told(watches, monkeypatch)) == [("a", "a")]


def test_what_the_watch_itself_showed_as_deleted_is_not_told_again(monkeypatch: pytest.MonkeyPatch):
    first = [*shown(None, pod("a")), LISTED, *shown("DELETED", pod("a")), {"type": "BOOKMARK", "object": {}}]
    assert told([first, [LISTED]], monkeypatch) == [*first, LISTED]


def test_half_a_list_tells_nothing_and_the_next_whole_one_all(monkeypatch: pytest.MonkeyPatch):
    first = [*shown(None, pod("a"), pod("b"), pod("c")), LISTED]
    half, whole = shown(None, pod("a"), pod("d")), [*shown(None, pod("b")), LISTED]
    events = told([first, half, whole], monkeypatch)
    assert events[: len(first) + len(half)] == [*first, *half]
    assert deletions(events) == [("a", "a"), ("c", "c"), ("d", "d")]


def test_of_a_namesake_only_the_earlier_one_is_told(monkeypatch: pytest.MonkeyPatch):
    watches = [[*shown(None, pod("1", "a")), LISTED], [*shown(None, pod("2", "a")), LISTED]]
    assert deletions(told(watches, monkeypatch)) == [("a", "1")]


def test_kopfs_own_watches_stay_as_they_are(monkeypatch: pytest.MonkeyPatch):
    """kopf reads the spec of a definition that is deleted, which is not kept here."""
    watches = [[*shown(None, pod("a")), LISTED], [LISTED]]
    assert deletions(told(watches, monkeypatch, own=True)) == []


def no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(watching, "infinite_watch")


def another_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def infinite_watch(*, settings: Any, resource: Any, namespace: Any) -> AsyncIterator[Any]:
        yield LISTED

    monkeypatch.setattr(watching, "infinite_watch", infinite_watch)


def no_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(watching, "Bookmark")


@pytest.mark.parametrize("change", [no_watch, another_watch, no_mark])
def test_a_kopf_that_watches_in_another_way_is_left_alone(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    change(monkeypatch)
    before = getattr(watching, "infinite_watch", None)
    assert not tell_missed_deletions()
    assert getattr(watching, "infinite_watch", None) is before
    assert "a deletion that a watch misses stays unnoticed" in caplog.text


def test_it_is_replaced_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watching, "infinite_watch", watching.infinite_watch)
    assert tell_missed_deletions()
    first = watching.infinite_watch
    assert tell_missed_deletions()
    assert watching.infinite_watch is first


KINDS = {
    "/api/v1": {"pods": "Pod", "nodes": "Node", "namespaces": "Namespace"},
    "/apis/ray.io/v1": {"rayclusters": "RayCluster"},
    "/apis/llmbatch.dev/v1alpha1": {"llmbatchjobs": "LLMBatchJob"},
    "/apis/apiextensions.k8s.io/v1": {"customresourcedefinitions": "CustomResourceDefinition"},
}
CLUSTER_WIDE = ("nodes", "namespaces", "customresourcedefinitions")


class ApiServer:
    """An API server of a few objects, whose watches all fall behind at once."""

    def __init__(self, stored: dict[str, list[Body]]) -> None:
        self._stored = stored
        self._behind = asyncio.Event()

    def fall_behind(self, stored: dict[str, list[Body]]) -> None:
        """Change what there is without telling the watches, and then tell them that they are too late."""
        self._stored = stored
        self._behind.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        discovered = _discovery().get(request.path)
        if discovered is not None:
            return web.json_response(discovered)
        root, _, plural = request.path.rpartition("/")
        if request.method != "GET" or plural not in KINDS.get(root, ()):
            return web.json_response({"message": "not found", "code": 404}, status=404)
        version = "200" if self._behind.is_set() else "100"
        if "watch" in request.query:
            return await self._watch(request)
        items = self._stored.get(plural, [])
        return web.json_response({"metadata": {"resourceVersion": version}, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if request.query["resourceVersion"] == "100":
            await self._behind.wait()
            expired = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await response.write(json.dumps({"type": "ERROR", "object": expired}).encode() + b"\n")
        else:
            await asyncio.Event().wait()
        return response


def _discovery() -> dict[str, Body]:
    found: dict[str, Body] = {"/api": {"versions": ["v1"]}, "/apis": {"groups": []}}
    for path, kinds in KINDS.items():
        verbs = {"verbs": ["get", "list", "watch"], "singularName": ""}
        resources = [
            {"name": plural, "kind": kind, "namespaced": plural not in CLUSTER_WIDE, **verbs}
            for plural, kind in kinds.items()
        ]
        found[path] = {"resources": resources}
        group, version = path.split("/")[-2:]
        served = {"groupVersion": f"{group}/{version}", "version": version}
        if group != "api":
            found["/apis"]["groups"].append({"name": group, "versions": [served], "preferredVersion": served})
    return found


def stored(name: str, uid: str, version: int, **metadata: Any) -> Body:
    return {"metadata": {"name": name, "uid": uid, "resourceVersion": str(version), **metadata}, "spec": {}}


def named(uid: str, version: int, name: str = "summarise") -> Body:
    """Return a job or a RayCluster."""
    return stored(name, uid, version, namespace="team", labels=JOB_LABELS)


def worker(name: str) -> Body:
    labels = {**JOB_LABELS, "ray.io/cluster": "summarise", "llmbatch.dev/capacity": "spot"}
    body = stored(name, f"uid-of-{name}", 1, namespace="team", labels=labels)
    return {**body, "spec": {"nodeName": f"node-of-{name}", "containers": []}}


@contextlib.asynccontextmanager
async def operating(server: ApiServer) -> AsyncIterator[Operator]:
    """An operator of this API server. It is cancelled in the end: told to stop, kopf waits for the server's tasks."""
    configuration = Configuration()
    async with answering(server.answer) as port:
        configuration.host = f"http://127.0.0.1:{port}"
        kube = KubeClient(configuration)
        operator = Operator(kube, OperatorSettings(), Options(host="127.0.0.1", port=0))
        running = asyncio.create_task(operator.run())
        try:
            yield operator
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            await kube.close()


def known(operator: Operator) -> Body:
    """Return what an operator knows of, by uid or name."""
    watch, nodes = operator._watch, ("node-of-a", "node-of-b")
    return {
        "pods": [item.pod.name for item in watch.pods("team", "summarise")],
        "nodes": [name for name in nodes if watch.node(name)],
        "nodes of jobs": [name for name in nodes if watch.jobs_on(name)],
        "ray clusters": [seen.uid for seen in watch._values("ray_clusters", ("team", "summarise"))],
        "jobs": {key.name: runner.uid for key, runner in operator.jobs._runners.items()},
    }


async def wait_for(wanted: Body, operator: Operator) -> None:
    """Wait until an operator knows of exactly this."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            while known(operator) != wanted:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
    assert known(operator) == wanted


def test_an_operator_forgets_what_was_deleted_while_its_watches_were_behind():
    """And not what came under the same names meanwhile."""
    nodes = ["node-of-a", "node-of-b"]
    before = {
        "pods": [worker("a"), worker("b")],
        "nodes": [stored(name, name, 1) for name in nodes],
        "rayclusters": [named("r1", 1)],
        "llmbatchjobs": [named("j1", 1), named("k1", 1, "classify")],
    }
    after = {
        "pods": before["pods"][1:],
        "nodes": before["nodes"][1:],
        "rayclusters": [named("r2", 2)],
        "llmbatchjobs": [named("j2", 2)],
    }

    async def scenario() -> None:
        server = ApiServer(before)
        async with operating(server) as operator:
            first = {"pods": ["a", "b"], "nodes": nodes, "nodes of jobs": nodes, "ray clusters": ["r1"]}
            await wait_for({**first, "jobs": {"summarise": "j1", "classify": "k1"}}, operator)
            server.fall_behind(after)
            then = {"pods": ["b"], "nodes": nodes[1:], "nodes of jobs": nodes[1:], "ray clusters": ["r2"]}
            await wait_for({**then, "jobs": {"summarise": "j2"}}, operator)

    asyncio.run(scenario())
