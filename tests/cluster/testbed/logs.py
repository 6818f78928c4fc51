"""The part of a kubelet's API that `kubectl logs` needs, for all nodes at once."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from testbed.controlplane import free_port

CHUNK = 1 << 16
FOLLOW_SECONDS = 0.3


class LogServer:
    """Serves the logs of containers to the API server, which takes any certificate of a kubelet.

    Args:
        host: the address to listen on.
        certificate: with its key beside it.
        log_of: returns a container's log by namespace, pod and container, and None where there is none.
        runs: tells whether a pod, by namespace and name, still runs.
    """

    def __init__(
        self,
        host: str,
        certificate: Path,
        log_of: Callable[[str, str, str], Path | None],
        runs: Callable[[str, str], bool],
    ) -> None:
        self.port = free_port(host)
        self._host, self._certificate, self._log_of, self._runs = host, certificate, log_of, runs
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def start(self) -> None:
        """Listen."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate, self._certificate.with_suffix(".key"))
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self.port, ssl_context=context).start()

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        namespace, pod, container = (request.match_info[name] for name in ("namespace", "pod", "container"))
        file = self._log_of(namespace, pod, container)
        if file is None or not file.exists():
            raise web.HTTPNotFound(text=f"no log of container {container} of {namespace}/{pod}\n")
        answer = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await answer.prepare(request)
        tail, follow = request.query.get("tailLines"), request.query.get("follow") == "true"
        with file.open("rb") as log:
            lines = log.readlines()
            await answer.write(b"".join(lines[max(0, len(lines) - int(tail)) :] if tail else lines))
            while follow:
                running = self._runs(namespace, pod)
                if more := log.read(CHUNK):
                    await answer.write(more)
                elif running:
                    await asyncio.sleep(FOLLOW_SECONDS)
                else:
                    break
        await answer.write_eof()
        return answer
