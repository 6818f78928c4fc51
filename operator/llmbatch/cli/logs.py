"""`llmbatch logs`: what a job's driver printed."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Annotated

import typer

from llmbatch.api.progress import FINAL_LINE
from llmbatch.cli.cluster import Context, JobName, Kubeconfig, Namespace, in_cluster, stored_job
from llmbatch.core.job.children.names import submission_id
from llmbatch.errors import InputError

if TYPE_CHECKING:
    from llmbatch.cluster.client import KubeClient

LOOK_SECONDS = 2.0
_FOR_MACHINES = re.compile(rf"^{FINAL_LINE}.*\n?", re.MULTILINE)
"""The line that the operator reads off a log's end."""


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
            # Asked before the log: what the driver prints until it ends is in the log then.
            phase = ((await stored_job(kube, default, name)).get("status") or {}).get("phase")
            last = not follow or phase in ("Complete", "Failed", "Suspended")
            log = await head.log(driver)
            end = len(log) if last else log.rfind("\n") + 1
            typer.echo(_FOR_MACHINES.sub("", log[shown:end]), nl=False)
            shown = end
            if last:
                return
            await asyncio.sleep(LOOK_SECONDS)

    in_cluster(kubeconfig, context, namespace, work)
