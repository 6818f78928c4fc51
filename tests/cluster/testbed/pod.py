"""One pod's life on a node: volumes, init containers, containers, probes, restarts, a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from llmbatch.cluster import paths
from llmbatch.cluster.client import KubeClient
from llmbatch.errors import LLMBatchError, StaleError
from testbed.container import Container, Launch, Mount
from testbed.network import Network
from testbed.volumes import MissingError, PodData, expand

Object = dict[str, Any]
UNREACHABLE_REGISTRY = "unreachable.example/"
"""Images of this registry cannot be pulled. Every other image is the machine itself."""
RESTART_SECONDS = (1.0, 2.0, 4.0, 8.0)
LOOK_AGAIN_SECONDS = 1.0
BEGIN_SECONDS = 60.0
"""Longest time a container that begins keeps the next one waiting."""
IMAGE_USER = 1000
"""The user of an image that is not told another, as in Ray's images."""


def now() -> str:
    """Return the time as the API server writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class ContainerState:
    """What the status says of one container."""

    spec: Object
    state: Object = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last: Object = field(default_factory=dict)
    restarts: int = 0
    started: bool = False
    ready: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it was ready, or has no probe to tell."""
    live: Container | None = None

    def status(self) -> Object:
        """Return the containerStatus."""
        return {
            "name": self.spec["name"],
            "image": self.spec["image"],
            "imageID": "",
            "state": self.state,
            "lastState": self.last,
            "restartCount": self.restarts,
            "started": self.started,
            "ready": self.ready,
        }


class PodRunner:
    """Runs one pod that is bound to a node of ours."""

    def __init__(
        self, client: KubeClient, pod: Object, network: Network, folder: Path, api_server: str, turns: asyncio.Semaphore
    ) -> None:
        self._client = client
        self._turns = turns
        self.pod = pod
        self._network = network
        self.folder = folder
        self._api_server = api_server
        self._init = [ContainerState(spec) for spec in pod["spec"].get("initContainers") or []]
        self._main = [ContainerState(spec) for spec in pod["spec"]["containers"]]
        self._changed = asyncio.Event()
        self._ending = False
        self._phase = "Pending"
        self._since: dict[str, tuple[str, str]] = {}
        self._namespace_of_network, self.address = network.join(pod["metadata"]["uid"])
        self._data = PodData(client, pod, folder, self.address)

    @property
    def path(self) -> str:
        """The pod's path on the API server."""
        return paths.single("Pod", self.pod["metadata"]["namespace"], self.pod["metadata"]["name"])

    async def run(self) -> None:
        """Run the pod until its containers are through for good."""
        self.folder.mkdir(parents=True, exist_ok=True)
        reporting = asyncio.create_task(self._report())
        try:
            volumes = await self._volumes()
            for state in self._init:
                await self._run_container(state, volumes, policy="OnFailure", probes=False)
            self._phase = "Running"
            policy = self.pod["spec"].get("restartPolicy", "Always")
            async with asyncio.TaskGroup() as group:
                for state in self._main:
                    group.create_task(self._run_container(state, volumes, policy=policy, probes=True))
            failed = any(state.state["terminated"]["exitCode"] for state in self._main)
            self._phase = "Failed" if failed else "Succeeded"
            self._changed.set()
            await reporting
        finally:
            reporting.cancel()

    async def end(self, grace: float) -> None:
        """End the containers: the hooks, SIGTERM, so many seconds, SIGKILL."""
        self._ending = True
        deadline = asyncio.get_running_loop().time() + grace
        live = [state for state in (*self._init, *self._main) if state.live is not None]

        async def one(state: ContainerState) -> None:
            assert state.live is not None
            hook = (state.spec.get("lifecycle") or {}).get("preStop", {}).get("exec")
            if hook and grace > 0:
                await state.live.run(hook["command"], grace)
            await state.live.stop(max(0.0, deadline - asyncio.get_running_loop().time()))

        await asyncio.gather(*(one(state) for state in live))

    def kill(self) -> None:
        """End the containers at once and say nothing, as a machine that is gone does."""
        self._ending = True
        for state in (*self._init, *self._main):
            if state.live is not None:
                state.live.kill()

    def leave(self) -> None:
        """Give back the pod's network namespace."""
        self._network.leave(self._namespace_of_network)

    async def _volumes(self) -> dict[str, Path | None]:
        while True:
            try:
                return await self._data.volumes()
            except MissingError:
                await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _run_container(
        self, state: ContainerState, volumes: dict[str, Path | None], *, policy: str, probes: bool
    ) -> None:
        while not self._ending:
            launch = await self._launch(state, volumes)
            async with self._turns:
                state.begun.clear()
                state.live = await Container.start(launch)
                started = now()
                state.state = {"running": {"startedAt": started}}
                probing = [asyncio.create_task(probe) for probe in self._probes(state)] if probes else []
                if not probing:
                    state.started = state.ready = True
                    state.begun.set()
                self._changed.set()
                await self._has_begun(state)
            code = await state.live.wait()
            for task in probing:
                task.cancel()
            reason = "Completed" if code == 0 else "Error"
            ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": now()}
            state.live, state.ready, state.started = None, not probes and code == 0, False
            state.state = {"terminated": ended}
            if self._ending or policy == "Never" or (policy == "OnFailure" and code == 0):
                break
            state.last = {"terminated": ended}
            pause = RESTART_SECONDS[min(state.restarts, len(RESTART_SECONDS) - 1)]
            pod = self.pod["metadata"]["name"]
            message = f"back-off {pause:.0f}s restarting failed container={state.spec['name']} pod={pod}"
            state.state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
            self._changed.set()
            await asyncio.sleep(pause)
            state.restarts += 1
        self._changed.set()

    async def _has_begun(self, state: ContainerState) -> None:
        """Wait until a container is ready, has ended, or has had its time."""
        assert state.live is not None
        first = {asyncio.create_task(state.live.wait()), asyncio.create_task(state.begun.wait())}
        _, rest = await asyncio.wait(first, timeout=BEGIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()

    async def _launch(self, state: ContainerState, volumes: dict[str, Path | None]) -> Launch:
        """Return how to start a container, once all that it needs is there."""
        while True:
            image = state.spec["image"]
            if image.startswith(UNREACHABLE_REGISTRY):
                await self._waits(state, "ErrImagePull", f'failed to pull image "{image}": no such host')
                continue
            try:
                environment = await self._data.environment(state.spec)
            except MissingError as error:
                await self._waits(state, "CreateContainerConfigError", str(error))
                continue
            user, group = self._user(state.spec)
            if user == 0 and self._security(state.spec, "runAsNonRoot"):
                await self._waits(state, "CreateContainerConfigError", "runAsNonRoot, and would run as root")
                continue
            return self._described(state.spec, volumes, environment, user, group)

    def _described(
        self, spec: Object, volumes: dict[str, Path | None], environment: dict[str, str], user: int, group: int
    ) -> Launch:
        server, _, port = self._api_server.rpartition(":")
        environment = {
            "HOSTNAME": self.pod["metadata"]["name"],
            "KUBERNETES_SERVICE_HOST": server,
            "KUBERNETES_SERVICE_PORT": port,
            **environment,
        }
        hosts = self._network.hosts_of(self.pod["metadata"]["namespace"])
        mounts = [Mount(hosts, "/etc/hosts", read_only=True)]
        for mount in spec.get("volumeMounts") or []:
            volume = volumes[mount["name"]]
            source = None if volume is None else volume / mount.get("subPath", "")
            mounts.append(Mount(source, mount["mountPath"], mount.get("readOnly", False)))
        command = [*(spec.get("command") or []), *(spec.get("args") or [])]
        return Launch(
            name=spec["name"],
            hostname=self.pod["metadata"]["name"],
            network=self._namespace_of_network,
            folder=self.folder,
            command=tuple(expand(part, environment) for part in command),
            environment=environment,
            mounts=tuple(mounts),
            user=user,
            group=group,
            workdir=spec.get("workingDir", "/tmp"),
            read_only=bool(self._security(spec, "readOnlyRootFilesystem")),
        )

    async def _waits(self, state: ContainerState, reason: str, message: str) -> None:
        state.state = {"waiting": {"reason": reason, "message": message}}
        self._changed.set()
        await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def _security(self, spec: Object, name: str) -> Any:
        own = (spec.get("securityContext") or {}).get(name)
        return own if own is not None else (self.pod["spec"].get("securityContext") or {}).get(name)

    def _user(self, spec: Object) -> tuple[int, int]:
        user = self._security(spec, "runAsUser")
        user = IMAGE_USER if user is None else user
        group = self._security(spec, "runAsGroup")
        if group is None:
            group = (self.pod["spec"].get("securityContext") or {}).get("fsGroup", user)
        return user, group

    def _probes(self, state: ContainerState) -> list[Coroutine[Any, Any, None]]:
        spec = state.spec

        async def all_of_them() -> None:
            if "startupProbe" in spec:
                await self._until_success(state, spec["startupProbe"])
            state.started = True
            if "readinessProbe" not in spec:
                state.ready = True
                state.begun.set()
            self._changed.set()
            async with asyncio.TaskGroup() as group:
                if "readinessProbe" in spec:
                    group.create_task(self._watch(state, spec["readinessProbe"], self._set_ready))
                if "livenessProbe" in spec:
                    group.create_task(self._watch(state, spec["livenessProbe"], self._restart_when_dead))

        return [all_of_them()] if {"startupProbe", "readinessProbe", "livenessProbe"} & set(spec) else []

    async def _until_success(self, state: ContainerState, probe: Object) -> None:
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        failures = 0
        while not await self._probe(state, probe):
            failures += 1
            if failures >= probe.get("failureThreshold", 3) and state.live is not None:
                await state.live.stop(self.pod["spec"].get("terminationGracePeriodSeconds", 30))
                return
            await asyncio.sleep(probe.get("periodSeconds", 10))

    async def _watch(self, state: ContainerState, probe: Object, act: Callable[[ContainerState, bool], Any]) -> None:
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        same, last = 0, None
        while True:
            answer = await self._probe(state, probe)
            same = same + 1 if answer == last else 1
            last = answer
            if same >= probe.get("successThreshold" if answer else "failureThreshold", 1 if answer else 3):
                await act(state, answer)
            await asyncio.sleep(probe.get("periodSeconds", 10))

    async def _set_ready(self, state: ContainerState, answer: bool) -> None:
        if answer:
            state.begun.set()
        if state.ready != answer:
            state.ready = answer
            self._changed.set()

    async def _restart_when_dead(self, state: ContainerState, answer: bool) -> None:
        if not answer and state.live is not None:
            await state.live.stop(self.pod["spec"].get("terminationGracePeriodSeconds", 30))

    async def _probe(self, state: ContainerState, probe: Object) -> bool:
        seconds = probe.get("timeoutSeconds", 1)
        if "exec" in probe:
            return state.live is not None and await state.live.run(probe["exec"]["command"], seconds) == 0
        if "httpGet" in probe:
            return await self._http_probe(state.spec, probe["httpGet"], seconds)
        port = _port(state.spec, probe["tcpSocket"]["port"])
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(self.address, port), seconds)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    async def _http_probe(self, spec: Object, get: Object, seconds: float) -> bool:
        url = f"{get.get('scheme', 'HTTP').lower()}://{self.address}:{_port(spec, get['port'])}{get.get('path', '/')}"
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, ssl=False) as answer:
                return 200 <= answer.status < 400
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def _report(self) -> None:
        """Write the status at each change, until its last phase is written."""
        self._changed.set()
        while self._changed.is_set() or self._phase not in ("Succeeded", "Failed"):
            await self._changed.wait()
            self._changed.clear()
            with contextlib.suppress(StaleError):
                await self._write_status()

    async def _write_status(self) -> None:
        try:
            await self._client.merge_patch(f"{self.path}/status", {"status": self._status()})
        except StaleError:
            raise
        except LLMBatchError:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            self._changed.set()

    def _status(self) -> Object:
        initialized = all(state.state.get("terminated", {}).get("exitCode") == 0 for state in self._init)
        ready = self._phase == "Running" and all(state.ready for state in self._main)
        status = {
            "phase": self._phase,
            "hostIP": self._network.gateway,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": self._condition("Started", True)["lastTransitionTime"],
            "conditions": [
                self._condition("PodScheduled", True),
                self._condition("Initialized", initialized),
                self._condition("ContainersReady", ready),
                self._condition("Ready", ready),
            ],
            "containerStatuses": [state.status() for state in self._main],
        }
        if self._init:
            status["initContainerStatuses"] = [state.status() for state in self._init]
        return status

    def _condition(self, kind: str, value: bool) -> Object:
        told, since = self._since.get(kind, ("", ""))
        if told != str(value):
            since = now()
            self._since[kind] = (str(value), since)
        return {"type": kind, "status": str(value), "lastTransitionTime": since}


def _port(spec: Object, port: int | str) -> int:
    if isinstance(port, int):
        return port
    named = {item.get("name"): item["containerPort"] for item in spec.get("ports") or []}
    return int(named[port])
