"""`llmbatch watch`: a job live, as `llmbatch run` shows one, until it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.live import Live as Screen

from llmbatch.cli.cluster import Context, JobName, Kubeconfig, Namespace, in_cluster, stored_job
from llmbatch.cli.display import one_line
from llmbatch.cli.exits import FAILED
from llmbatch.cli.live import Live, LiveJob
from llmbatch.cli.status import picture
from llmbatch.errors import TransientError

if TYPE_CHECKING:
    from llmbatch.cluster.client import KubeClient

LOOK_SECONDS = 2.0
LINE_SECONDS = 10.0
"""Without a terminal, a line is printed this often."""


def watch(name: JobName, namespace: Namespace = None, kubeconfig: Kubeconfig = None, context: Context = None) -> None:
    """Show a job until it ends. Exit codes: 0 complete, 1 failed.

    Live figures come from the job's head through the API server's proxy; where that is not allowed, only the stored
    status is shown, which lags by up to five minutes.
    """

    async def work(kube: KubeClient, default: str) -> str:
        console = Console()
        if not console.is_terminal:
            return await _follow(kube, default, name, _lines(console), LINE_SECONDS)
        with Screen(console=console, auto_refresh=False) as screen:
            return await _follow(
                kube, default, name, lambda job, said: screen.update(picture(job, said, time.time()), refresh=True)
            )

    if in_cluster(kubeconfig, context, namespace, work) == "Failed":
        raise typer.Exit(FAILED)


Show = Callable[[dict[str, Any], Live], None]


async def _follow(kube: KubeClient, namespace: str, name: str, show: Show, seconds: float = LOOK_SECONDS) -> str:
    live = LiveJob(kube, namespace, name)
    job = await stored_job(kube, namespace, name)
    said = await live.ask(job)
    while True:
        show(job, said)
        phase = str((job.get("status") or {}).get("phase", "Pending"))
        if phase in ("Complete", "Failed"):
            return phase
        await asyncio.sleep(seconds)
        try:
            job = await stored_job(kube, namespace, name)
            said = await live.ask(job)
        except TransientError as error:
            # A job that runs for hours outlives an API server's restart, and an exit code 1 says that it failed.
            said = Live(trouble=str(error))


def _lines(console: Console) -> Show:
    def show(job: dict[str, Any], live: Live) -> None:
        phase = (job.get("status") or {}).get("phase", "Pending")
        line = phase if live.progress is None else f"{phase}  {one_line(live.progress)}"
        console.print(line, soft_wrap=True, highlight=False)

    return show
