"""Which of llmbatch's errors an answer of the API server is."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from llmbatch.cluster.client import KubeClient, default_namespace
from llmbatch.errors import ApiServerError, ForbiddenError, LLMBatchError, RejectedError, StaleError, UserError
from serverkit import answering


def answered(status: int, text: str, work: Callable[[KubeClient], Awaitable[Any]]) -> Any:
    """Answer every request the same way, and return what `work` makes of it."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    return served(answer, work)


def served(
    answer: Callable[[web.Request], Awaitable[web.Response]], work: Callable[[KubeClient], Awaitable[Any]]
) -> Any:
    """Return what `work` makes of an API server that answers so."""

    async def run() -> Any:
        configuration = Configuration()
        async with answering(answer) as port:
            configuration.host = f"http://127.0.0.1:{port}"
            kube = KubeClient(configuration)
            try:
                return await work(kube)
            finally:
                await kube.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (200, "<html>Please log in</html>", ApiServerError),
        (200, '{"items": [', ApiServerError),
        (408, "{}", ApiServerError),
        (429, "{}", ApiServerError),
        (503, "upstream connect error", ApiServerError),
        (401, "{}", ForbiddenError),
        (403, "{}", ForbiddenError),
        (422, "{}", RejectedError),
    ],
)
def test_the_class_says_whether_to_try_again(status: int, text: str, error: type[Exception]):
    with pytest.raises(error):
        answered(status, text, lambda kube: kube.get("/api/v1/pods"))


def test_an_object_that_is_not_there_is_none():
    assert answered(404, "{}", lambda kube: kube.get("/api/v1/pods")) is None


def test_a_change_of_what_has_changed_is_to_be_decided_again():
    with pytest.raises(StaleError):
        answered(409, "{}", lambda kube: kube.replace("/api/v1/pods/a", {}))


TESTED = [
    {"op": "test", "path": "/metadata/uid", "value": "cluster-1"},
    {"op": "test", "path": "/spec/groups/1/replicas", "value": 2},
    {"op": "test", "path": "/metadata/labels/example.com~1team", "value": "a"},
    {"op": "add", "path": "/spec/groups/1/replicas", "value": 5},
]
DENIED = "admission policy 'max-gpus' denied request: at most 4 workers"


def unprocessable(stored: dict[str, Any] | None) -> Exception:
    """Return what becomes of a patch that the API server answers with 422, while it has this object."""

    async def answer(request: web.Request) -> web.Response:
        if request.method == "PATCH":
            return web.json_response({"reason": "Invalid", "message": DENIED}, status=422)
        return web.json_response(stored or {}, status=404 if stored is None else 200)

    with pytest.raises(LLMBatchError) as caught:
        served(answer, lambda kube: kube.json_patch("/apis/ray.io/v1/a", TESTED))
    return caught.value


def having(uid: str = "cluster-1", groups: tuple[int, ...] = (0, 2), team: str = "a") -> dict[str, Any]:
    metadata = {"uid": uid, "labels": {"example.com/team": team}}
    return {"metadata": metadata, "spec": {"groups": [{"replicas": replicas} for replicas in groups]}}


def test_a_patch_that_is_refused_though_its_tests_hold_is_the_users_to_mend():
    refused = unprocessable(having())
    assert isinstance(refused, RejectedError)
    assert str(refused) == DENIED


@pytest.mark.parametrize(
    "stored",
    [None, having(uid="cluster-2"), having(groups=(0, 3)), having(groups=(0,)), having(team="b"), {"spec": "other"}],
    ids=["gone", "a namesake", "resized", "without the group", "relabelled", "of another shape"],
)
def test_a_patch_whose_tests_do_not_hold_is_to_be_decided_again(stored: dict[str, Any] | None):
    assert isinstance(unprocessable(stored), StaleError)


def test_a_field_that_another_manager_owns_is_the_users_to_mend():
    conflict = '{"message": "Apply failed with 1 conflict: conflict with \\"kubectl\\": .spec.shardRows"}'
    with pytest.raises(RejectedError, match=r"conflict with \"kubectl\": .spec.shardRows"):
        answered(409, conflict, lambda kube: kube.apply("/api/v1/pods/a", {}))


@pytest.mark.parametrize("text", ["", "a: b: c", "just words", "[1, 2]", "clusters: 5\ncurrent-context: a\n"])
def test_a_kubeconfig_that_is_none_is_named(tmp_path: Path, text: str):
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(UserError, match=f"kubeconfig: '{file}': must be usable"):
        asyncio.run(KubeClient.connect(file))
    assert default_namespace(file) == "default"


@pytest.mark.parametrize(
    ("server", "proxy"),
    [
        ("https://10.96.0.1:443", None),
        ("https://[fd00::1]:443", None),
        ("https://kubernetes.default.svc", None),
        ("https://api.example:6443", "http://proxy.example:3128"),
        ("https://192.0.2.1:6443", "http://proxy.example:3128"),
    ],
)
def test_networks_that_need_no_proxy_are_reached_directly(
    monkeypatch: pytest.MonkeyPatch, server: str, proxy: str | None
):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8, fd00::/8,.svc,.cluster.local")
    configuration = Configuration()
    configuration.host = server

    async def made() -> str | None:
        kube = KubeClient(configuration)
        await kube.close()
        return kube.configuration.proxy

    assert asyncio.run(made()) == proxy
