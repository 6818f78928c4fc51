"""Putting the operator together and running it until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kopf
from aiohttp import web

from llmbatch.api.base import GROUP, KIND
from llmbatch.cluster.apply import Applier
from llmbatch.cluster.client import KubeClient
from llmbatch.cluster.head import HeadClient
from llmbatch.cluster.observe import Observer
from llmbatch.controller import health
from llmbatch.controller.handlers import Handlers
from llmbatch.controller.jobs import Jobs
from llmbatch.controller.metrics import Metrics
from llmbatch.controller.relist import tell_missed_deletions
from llmbatch.controller.runner import Tools
from llmbatch.controller.toggles import wake_on_change_only
from llmbatch.controller.watch import ABSENT_SECONDS, Watch
from llmbatch.core.job.children.names import JOB_LABEL
from llmbatch.core.job.snapshot import OperatorSettings
from llmbatch.errors import ApiServerError, UserError

logger = logging.getLogger(__name__)

INDICES = ("ray_clusters", "pods", "jobs_by_node", "nodes")
LIST_CHUNK = 100
"""Objects a page of a first listing: 5 000 pods at once would be the peak of the operator's memory."""
GARBAGE_OBJECTS = 20_000
"""New objects between two collections of garbage; Python's default is 700."""
WATCH_SECONDS = 300
"""A watch is renewed this often, whatever the API server does with it."""


class NoDiffs(kopf.DiffBaseStorage):  # type: ignore[misc]
    """No handler here reacts to what changed in an object, so nothing of it is kept to compare with.

    kopf copies every object of every event deeply for that comparison, whether or not a handler asks for it, which was
    half of what an event cost.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Return nothing to compare."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Return that nothing was kept."""
        return None

    def store(self, **_: Any) -> None:
        """Keep nothing."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator's command line decides."""

    kubeconfig: Path | None = None
    """Left out: `KUBECONFIG`, `~/.kube/config` or the pod's service account."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to serve; empty: all."""
    watch_nodes: bool = True
    """Whether nodes are watched: without, preemption is seen on pods alone."""
    host: str = "0.0.0.0"  # noqa: S104 - the pod's own
    """Address of the probes and metrics."""
    port: int = 8080
    """Port of the probes and metrics."""
    snapshots: Path | None = None
    """Folder for the latest Snapshot of each job, for `llmbatch explain`."""


class Operator:
    """One operator process."""

    def __init__(self, kube: KubeClient, settings: OperatorSettings, options: Options) -> None:
        self._kube, self._settings, self._options = kube, settings, options
        self._heads = HeadClient()
        self._watch = Watch(kube, nodes_watched=options.watch_nodes)
        self.metrics = Metrics(lambda: self.jobs.phases(), lambda: self.jobs.figures(), lambda: kube.writes)
        observer = Observer(kube, self._heads, self._watch, settings)
        applier = Applier(kube, self._heads, socket.gethostname())
        self.jobs = Jobs(Tools(kube, observer, applier, self.metrics, options.snapshots))
        self._server: web.AppRunner | None = None
        self.ready = asyncio.Event()

    @property
    def writes(self) -> int:
        """Requests so far that could change an object."""
        return self._kube.writes

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Run until `stop` is set or the process gets SIGTERM or SIGINT.

        Raises:
            OSError: the port is taken.
        """
        app = health.application(self.jobs.longest_pass, self.ready.is_set, self.metrics)
        self._server = await health.serve(app, self._options.host, self._options.port)
        wake_on_change_only()
        tell_missed_deletions()
        stop = stop or asyncio.Event()
        found = {"KubeRay": self._watch.kuberay_installed, KIND: self._watch.jobs_served}
        asked = {what: asyncio.Event() for what in found}
        waits = [
            asyncio.create_task(self._end_when_it_comes(stop, what, is_there, asked[what]))
            for what, is_there in found.items()
        ]

        async def have_asked(**_: Any) -> None:
            for answered in asked.values():
                await answered.wait()

        try:
            await kopf.operator(
                registry=self._registry(have_asked),
                settings=self._kopf_settings(),
                standalone=True,
                clusterwide=not self._options.namespaces,
                namespaces=self._options.namespaces,
                stop_flag=stop,
                ready_flag=self.ready,
            )
        finally:
            for wait in waits:
                wait.cancel()
            await self.jobs.close()
            await self._heads.close()
            await self._server.cleanup()

    async def _end_when_it_comes(
        self, stop: asyncio.Event, what: str, is_there: Callable[[], Awaitable[bool]], asked: asyncio.Event
    ) -> None:
        """Set `asked` once it is known whether something is there, and `stop` once it comes after that.

        kopf can miss resources that are defined after its start: it asks which there are when it hears of a definition,
        which may be before that is served, and with a Role alone it does not hear of any. So kopf has to ask later than
        this does.
        """
        there = waited = warned = False
        while not there:
            try:
                there = await is_there()
                waited = waited or not there
            except UserError as error:
                # kopf was not told either which resources there are.
                waited = True
                if not warned:
                    logger.warning("%s cannot be looked for until this is mended: %s", what, error)
                    warned = True
            except ApiServerError as error:
                logger.debug("%s was not looked for: %s", what, error)
                await asyncio.sleep(ABSENT_SECONDS)
                continue
            asked.set()
            if not there:
                await asyncio.sleep(ABSENT_SECONDS)
        if waited:
            logger.warning("%s is there now: ending, to watch it after the next start", what)
            stop.set()

    def _registry(self, before: Callable[..., Awaitable[None]]) -> kopf.OperatorRegistry:
        """Return what kopf calls; it asks for nothing until `before` has returned."""
        registry = kopf.OperatorRegistry()
        Handlers(self.jobs, self._watch, self._settings).register(registry)
        kopf.on.startup(registry=registry, id="before")(before)
        kopf.on.startup(registry=registry, id="use_indices")(self._use_indices)
        kopf.on.login(registry=registry, id="login")(self._login)
        return registry

    async def _use_indices(self, **kwargs: Any) -> None:
        self._watch.use({name: kwargs[name] for name in INDICES if name in kwargs})

    async def _login(self, **_: Any) -> kopf.ConnectionInfo:
        return await connection_info(self._kube)

    def _kopf_settings(self) -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.watching.server_timeout = WATCH_SECONDS
        settings.watching.client_timeout = WATCH_SECONDS + 30
        settings.watching.chunk_size = LIST_CHUNK
        settings.watching.label_selectors["pods"] = JOB_LABEL
        settings.watching.label_selectors["rayclusters"] = JOB_LABEL
        # Without handlers that change objects nothing of these is ever written; named all the same, should one come.
        settings.persistence.finalizer = f"{GROUP}/operator"
        settings.persistence.progress_storage = kopf.StatusProgressStorage(field=f"status.{GROUP}")
        settings.persistence.diffbase_storage = NoDiffs()
        settings.scanning.disabled = bool(self._options.namespaces) and not self._options.watch_nodes
        return settings


async def connection_info(kube: KubeClient) -> kopf.ConnectionInfo:
    """Return the client's own credentials for kopf's watches. kopf asks again when they are refused."""
    configuration = kube.configuration
    header = await configuration.get_api_key_with_prefix("BearerToken")
    scheme, _, token = (header or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
    )


async def run_operator(options: Options, settings: OperatorSettings) -> None:
    """Run one operator until it is told to stop.

    Raises:
        UserError: there is no way to reach a cluster.
        OSError: the port is taken.
    """
    kube = await KubeClient.connect(options.kubeconfig)
    # What was imported stays: no collection of garbage needs to look through it. What is made at the start mostly stays
    # too, and would be looked through again and again while it grows.
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
    try:
        await Operator(kube, settings, options).run()
    finally:
        await kube.close()
