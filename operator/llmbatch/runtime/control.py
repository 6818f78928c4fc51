"""The control endpoint of a run: Capacity in, Progress out, and metrics. Every request needs the bearer token."""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web
from pydantic import ValidationError

from llmbatch.api.capacity import Capacity
from llmbatch.api.progress import Progress
from llmbatch.runtime.desired import Desired
from llmbatch.runtime.metrics import exposition

MAX_BODY_BYTES = 4 * 2**20
"""A Capacity names doomed workers: 4 MiB are about ten thousand of them."""
FINAL_STATES = ("paused", "complete", "failed")


class Board:
    """Holds the newest Progress, and knows whether its end was read. Thread-safe."""

    def __init__(self) -> None:
        self._progress = Progress()
        self._lock = threading.Lock()
        self.end_was_read = threading.Event()

    def post(self, progress: Progress) -> None:
        """Replace the Progress."""
        with self._lock:
            self._progress = progress

    def latest(self) -> Progress:
        """Return the newest Progress."""
        with self._lock:
            return self._progress

    def read(self) -> Progress:
        """Return the newest Progress to the controller, and note it when that is the last one."""
        progress = self.latest()
        if progress.state in FINAL_STATES:
            self.end_was_read.set()
        return progress


def application(token: str, desired: Desired, board: Board) -> web.Application:
    """Return the endpoint's routes.

    Args:
        token: What requests must carry as `Authorization: Bearer`, or as `X-Ray-Authorization: Bearer` where a proxy,
            such as the API server's, takes the former for itself. Not empty.
        desired: Where a Capacity goes.
        board: Where Progress comes from.
    """
    metrics = exposition(board.latest)

    @web.middleware
    async def authorize(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        given = request.headers.get("Authorization") or request.headers.get("X-Ray-Authorization") or ""
        # What is no UTF-8 is no token, and no reason to fail.
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), f"Bearer {token}".encode()):
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"})
        return await handler(request)

    async def put_capacity(request: web.Request) -> web.Response:
        try:
            capacity = Capacity.from_wire(await request.read())
        except ValidationError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        if not desired.offer(capacity):
            # Its sender must not take it for delivered: its clock went back, or another one is ahead of it.
            raise web.HTTPConflict(text=f"sequence {capacity.sequence} is older than {desired.latest().sequence}")
        return _progress(board.read())

    async def get_progress(request: web.Request) -> web.Response:
        # A person who watches through the API server's proxy must not take the end away from the controller.
        return _progress(board.read() if "Authorization" in request.headers else board.latest())

    async def get_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application(middlewares=[authorize], client_max_size=MAX_BODY_BYTES)
    app.router.add_put("/v1/capacity", put_capacity)
    app.router.add_get("/v1/progress", get_progress)
    app.router.add_get("/metrics", get_metrics)
    return app


def _progress(progress: Progress) -> web.Response:
    return web.Response(text=progress.model_dump_json(by_alias=True), content_type="application/json")


@contextmanager
def serving(app: web.Application, host: str, port: int) -> Iterator[int]:
    """Serve `app` from a thread of its own while the block runs; yields the port (0 chooses a free one).

    Raises:
        OSError: the port is taken.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True, name="control")
    thread.start()
    runner = web.AppRunner(app, access_log=None)
    try:
        yield asyncio.run_coroutine_threadsafe(_start(runner, host, port), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _start(runner: web.AppRunner, host: str, port: int) -> int:
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    bound: int = runner.addresses[0][1]
    return bound
