"""The operator's HTTP port: liveness, readiness and metrics."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from llmbatch.controller.metrics import Metrics

LONGEST_PASS_SECONDS = 300.0
"""A pass longer than this hangs: each of its requests has a time limit of 30 s or less."""


def application(longest_pass: Callable[[], float], watching: Callable[[], bool], metrics: Metrics) -> web.Application:
    """Return the routes `/healthz`, `/readyz` and `/metrics`.

    Args:
        longest_pass: Age of the oldest pass under way, in seconds.
        watching: Whether the watches were filled once.
        metrics: What `/metrics` shows.
    """

    async def healthz(_: web.Request) -> web.Response:
        age = longest_pass()
        return web.Response(text=f"oldest pass {age:.1f} s\n", status=200 if age < LONGEST_PASS_SECONDS else 503)

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if watching() else web.Response(text="not watching yet\n", status=503)

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", exposition)
    return app


async def serve(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Serve until the runner is cleaned up.

    Raises:
        OSError: the port is taken.
    """
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
