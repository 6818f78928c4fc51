"""`llmbatch logs`: what a job's driver printed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from llmbatch.cli.cluster import Context, JobName, Kubeconfig, Namespace, in_cluster, stored_job
from llmbatch.core.job.children.names import submission_id
from llmbatch.errors import InputError

if TYPE_CHECKING:
    from llmbatch.cluster.client import KubeClient

LOOK_SECONDS = 2.0


def logs(
    name: JobName,
    attempt: Annotated[int | None, typer.Option(min=1, help="Left out, the present one.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Print the log of a job's driver, as long as its head is there (spec.ttlSecondsAfterFinished)."""

    async def work(kube: KubeClient, default: str) -> None:
        from llmbatch.cluster.proxied import ProxiedHead

        job = await stored_job(kube, default, name)
        number = attempt or (job.get("status") or {}).get("attempt")
        if number is None:
            raise InputError.of("NAME", name, "has not begun: it has no attempt yet")
        driver = submission_id(job["metadata"]["uid"], number)
        head = await ProxiedHead.find(kube, default, name)
        shown = 0
        while True:
            log = await head.log(driver)
            typer.echo(log[shown:], nl=False)
            shown = len(log)
            phase = ((await stored_job(kube, default, name)).get("status") or {}).get("phase")
            if not follow or phase in ("Complete", "Failed", "Suspended"):
                return
            await asyncio.sleep(LOOK_SECONDS)

    in_cluster(kubeconfig, context, namespace, work)
