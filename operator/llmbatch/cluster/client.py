"""The API server, as plain JSON over one pool of connections.

The official client does authentication (kubeconfig, exec plugins, service accounts, rotation) and TLS. Its typed
models are left out: the objects are built and projected by `core`, and a model a pod would cost most of the memory.
So is what stands above its connections, which copies each body in Python before it is encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import pydantic_core
import yaml
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import (
    ConfigException,
    list_kube_config_contexts,
    load_incluster_config,
    load_kube_config,
)

from llmbatch import __version__
from llmbatch.errors import ApiServerError, ForbiddenError, LLMBatchError, RejectedError, StaleError, UserError

FIELD_MANAGER = "llmbatch"
USER_AGENT = f"llmbatch/{__version__}"
"""How the API server's audit log names this client."""
REQUEST_SECONDS = 30.0
CONNECTIONS = 64
"""Requests under way at a time: more only queue in the API server's own fairness."""

UNUSABLE = (ConfigException, OSError, yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError)
"""What the official client raises of a kubeconfig that is empty, no YAML, or of another shape."""

Object = dict[str, Any]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class KubeClient:
    """One API server. Every method raises one of llmbatch's errors, and nothing else, when the request fails."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        configuration.connection_pool_maxsize = CONNECTIONS
        configuration.proxy = configuration.proxy or _proxy_of(configuration.host)
        # Otherwise aiohttp reads ~/.netrc in a thread, for each request.
        configuration.client_session_kwargs = {"trust_env": False}
        self._api = RESTClientObject(configuration)
        self.writes = 0
        """Requests so far that could change an object."""

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None, context: str | None = None) -> Self:
        """Return a client by the given kubeconfig, else by `KUBECONFIG` or `~/.kube/config`, else by the pod.

        Raises:
            UserError: there is no usable configuration.
        """
        configuration = Configuration()
        path = None if kubeconfig is None else str(kubeconfig)
        try:
            await load_kube_config(config_file=path, context=context, client_configuration=configuration)
        except UNUSABLE as outside:
            if kubeconfig is not None or context is not None:
                raise UserError.of("kubeconfig", path or context, f"must be usable: {outside}") from outside
            try:
                load_incluster_config(client_configuration=configuration)
            except ConfigException as inside:
                raise UserError(
                    f"no cluster: no kubeconfig ({outside}) and not in a pod ({inside}): set KUBECONFIG"
                ) from inside
        return cls(configuration)

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Object | None:
        """Return an object or a list; None when it does not exist."""
        return await self._request("GET", path, query=query, absent=(404,))

    async def get_text(self, path: str, headers: Mapping[str, str], query: Mapping[str, str] | None = None) -> str:
        """Return what a pod answers through the API server's proxy.

        Raises:
            ApiServerError: the API server or the pod did not answer, or answered that it cannot now.
            ForbiddenError, RejectedError: one of them refused.
        """
        status, data = await self._send("GET", path, None, query, {"Accept": "*/*", **headers})
        if status >= 400:
            raise _error(f"GET {path}", status, data, ())
        return data.decode(errors="replace")

    async def create(self, path: str, body: Object, *, dry_run: bool = False) -> Object | None:
        """Create an object in a collection; None when one of that name exists already."""
        return await self._request("POST", path, body, query=_writing(dry_run), absent=(409,))

    async def replace(self, path: str, body: Object) -> Object:
        """Replace an object or subresource.

        Raises:
            StaleError: the body's resourceVersion or uid is not the stored one, or the object is gone.
        """
        return _found(path, await self._request("PUT", path, body, query=_writing(), stale=(404, 409)))

    async def json_patch(self, path: str, patch: list[Object]) -> Object:
        """Apply an RFC 6902 patch.

        Raises:
            RejectedError: every `test` of the patch holds, and yet the API server does not accept it.
            StaleError: a `test` of the patch failed, or the object is gone.
        """
        try:
            answer = await self._request(
                "PATCH", path, patch, query=_writing(), content="application/json-patch+json", stale=(404, 409)
            )
        except RejectedError as error:
            # The API server answers a failed test as it does a validation or a policy that refuses the new object.
            stored = await self.get(path)
            if stored is None or not _tests_hold(stored, patch):
                raise StaleError(f"PATCH {path}: {error}") from error
            raise
        return _found(path, answer)

    async def merge_patch(self, path: str, patch: Object) -> Object:
        """Apply an RFC 7386 patch.

        Raises:
            StaleError: the object is gone.
        """
        answer = await self._request(
            "PATCH", path, patch, query=_writing(), content="application/merge-patch+json", stale=(404, 409)
        )
        return _found(path, answer)

    async def apply(self, path: str, body: Object, *, manager: str = FIELD_MANAGER, dry_run: bool = False) -> Object:
        """Apply an object server-side.

        Raises:
            RejectedError: another field manager owns a field, or the namespace is not there.
        """
        query = _writing(dry_run, manager=manager)
        answer = await self._request("PATCH", path, body, query=query, content="application/apply-patch+yaml")
        return _found(path, answer)

    async def delete(self, path: str, uid: str | None = None) -> bool:
        """Delete an object in the background, with its uid as precondition; False when it is gone or is another."""
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        return await self._request("DELETE", path, options, absent=(404, 409)) is not None

    async def _request(
        self,
        method: Method,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
        absent: tuple[int, ...] = (),
        stale: tuple[int, ...] = (),
    ) -> Object | None:
        if method != "GET":
            self.writes += 1
        status, data = await self._send(
            method, path, body, query, {"Accept": "application/json", "Content-Type": content}
        )
        if status < 300:
            return _parsed(f"{method} {path}", data)
        if status in absent:
            return None
        raise _error(f"{method} {path}", status, data, stale)

    async def _send(
        self, method: Method, path: str, body: Any, query: Mapping[str, str] | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        url = f"{self.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers["User-Agent"] = USER_AGENT
        token = await self.configuration.get_api_key_with_prefix("BearerToken")
        if token:
            headers["Authorization"] = token
        try:
            answer = await self._api.request(method, url, headers=headers, body=body, _request_timeout=REQUEST_SECONDS)
            return answer.status, await answer.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ApiServerError(f"{method} {path}: {type(error).__name__}: {error}") from error


def default_namespace(kubeconfig: Path | None = None, context: str | None = None) -> str:
    """Return the namespace of the kubeconfig's context, `default` where it names none."""
    try:
        contexts, current = list_kube_config_contexts(None if kubeconfig is None else str(kubeconfig))
    except UNUSABLE:
        return "default"
    chosen = next((item for item in contexts if item["name"] == context), current)
    namespace: str = chosen["context"].get("namespace") or "default"
    return namespace


def _proxy_of(server: str) -> str | None:
    """Return the proxy that the environment names for a server."""
    address, proxies = urlsplit(server), getproxies()
    host = address.hostname or ""
    if proxy_bypass(host) or any(_within(host, network) for network in proxies.get("no", "").split(",")):
        return None
    return proxies.get(address.scheme)


def _within(host: str, network: str) -> bool:
    """Tell whether a host is an address in a network. Python does not read `10.0.0.0/8` in NO_PROXY, kubectl does."""
    try:
        return ip_address(host) in ip_network(network.strip(), strict=False)
    except ValueError:
        return False


def _writing(dry_run: bool = False, manager: str = FIELD_MANAGER) -> dict[str, str]:
    return {"fieldManager": manager, **({"dryRun": "All"} if dry_run else {})}


def _tests_hold(stored: Object, patch: list[Object]) -> bool:
    tests = (step for step in patch if step["op"] == "test")
    return all(_value_at(stored, test["path"]) == test["value"] for test in tests)


def _value_at(document: Any, pointer: str) -> Any:
    """Return what an RFC 6901 pointer names; None where nothing is."""
    found = document
    for key in pointer.split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(key) if isinstance(found, list) else key]
        except (LookupError, TypeError, ValueError):
            return None
    return found


def _parsed(request: str, data: bytes) -> Object:
    try:
        found: Object = pydantic_core.from_json(data)
    except ValueError as error:
        # A proxy's page, or an answer cut off.
        raise ApiServerError(f"{request}: no JSON: {data[:200]!r}") from error
    return found


def _found(path: str, answer: Object | None) -> Object:
    if answer is None:
        raise StaleError(f"{path}: gone")
    return answer


def _error(request: str, status: int, data: bytes, stale: tuple[int, ...]) -> LLMBatchError:
    message = _message(data)
    if status in stale:
        return StaleError(f"{request}: {message}")
    if status in (401, 403):
        return ForbiddenError(message)
    if status in (408, 429, *range(500, 600)):
        return ApiServerError(f"{request}: {status}: {message}")
    return RejectedError(message)


def _message(data: bytes) -> str:
    try:
        status = pydantic_core.from_json(data)
    except ValueError:
        return data.decode(errors="replace")[:500]
    return str(status.get("message", "")) if isinstance(status, dict) else str(status)
