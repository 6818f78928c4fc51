"""`llmbatch cancel`: stop a job, and keep what is committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmbatch.api.base import KIND
from llmbatch.cli.cluster import Context, JobName, Kubeconfig, Namespace, in_cluster, stored_job

if TYPE_CHECKING:
    from llmbatch.cluster.client import KubeClient


def cancel(
    name: JobName,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the job as well; its output stays.")] = False,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Stop a job: what is in flight is committed, its pods go. `spec.suspend: false` resumes it.

    With --delete the pods go at once; what is committed stays in the output.
    """

    async def work(kube: KubeClient, default: str) -> None:
        from llmbatch.cluster import paths

        job = await stored_job(kube, default, name)
        path = paths.single(KIND, default, name)
        if delete:
            await kube.delete(path, job["metadata"]["uid"])
        else:
            await kube.merge_patch(path, {"spec": {"suspend": True}})
        typer.echo(f"{name} {'deleted' if delete else 'is suspended'}")

    in_cluster(kubeconfig, context, namespace, work)
