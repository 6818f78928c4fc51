"""`llmbatch watch`: a job live, as `llmbatch run` shows one, until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live

from llmbatch.api.progress import Progress
from llmbatch.cli.cluster import FAILED, Context, JobName, Kubeconfig, Namespace, in_cluster, stored_job
from llmbatch.cli.display import one_line, render
from llmbatch.cli.status import describe
from llmbatch.errors import LLMBatchError

if TYPE_CHECKING:
    from llmbatch.cluster.client import KubeClient
    from llmbatch.cluster.proxied import ProxiedHead

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
        with Live(console=console, auto_refresh=False) as live:
            return await _follow(
                kube, default, name, lambda job, progress: live.update(_picture(job, progress), refresh=True)
            )

    if in_cluster(kubeconfig, context, namespace, work) == "Failed":
        raise typer.Exit(FAILED)


Show = Callable[[dict[str, Any], Progress | None], None]


async def _follow(kube: KubeClient, namespace: str, name: str, show: Show, seconds: float = LOOK_SECONDS) -> str:
    head: ProxiedHead | None = None
    while True:
        job = await stored_job(kube, namespace, name)
        phase = (job.get("status") or {}).get("phase", "Pending")
        if phase in ("Complete", "Failed"):
            show(job, None)
            return str(phase)
        head, progress = await _ask(kube, namespace, name, head)
        show(job, progress)
        await asyncio.sleep(seconds)


async def _ask(
    kube: KubeClient, namespace: str, name: str, head: ProxiedHead | None
) -> tuple[ProxiedHead | None, Progress | None]:
    """Return the head and its Progress; neither where it cannot be reached now."""
    from llmbatch.cluster.proxied import ProxiedHead

    try:
        head = head or await ProxiedHead.find(kube, namespace, name)
        return head, await head.progress()
    except LLMBatchError:
        return None, None


def _picture(job: dict[str, Any], progress: Progress | None) -> RenderableType:
    return describe(job) if progress is None else Group(describe(job), render(progress))


def _lines(console: Console) -> Show:
    def show(job: dict[str, Any], progress: Progress | None) -> None:
        phase = (job.get("status") or {}).get("phase", "Pending")
        console.print(phase if progress is None else f"{phase}  {one_line(progress)}", soft_wrap=True, highlight=False)

    return show
