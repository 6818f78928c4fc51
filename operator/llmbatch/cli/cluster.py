"""What the verbs that talk to a cluster share: options, connection, exit codes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from llmbatch.api.base import KIND
from llmbatch.cli.exits import INTERRUPTED, exit_code
from llmbatch.errors import InputError, LLMBatchError

if TYPE_CHECKING:
    from llmbatch.cluster.client import KubeClient

T = TypeVar("T")
JobName = Annotated[str, typer.Argument(help="The job.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Left out, the context's.")]
Kubeconfig = Annotated[Path | None, typer.Option(help="Left out, KUBECONFIG or ~/.kube/config.")]
Context = Annotated[str | None, typer.Option(help="Left out, the current one.")]


def in_cluster(
    kubeconfig: Path | None,
    context: str | None,
    namespace: str | None,
    work: Callable[[KubeClient, str], Coroutine[Any, Any, T]],
) -> T:
    """Run `work` with a client and the namespace, and turn errors into messages and exit codes.

    Raises:
        typer.Exit: 1 the cluster did not answer, 2 the user changes something, 3 internal error, 130 interrupted.
    """
    from llmbatch.cluster.client import KubeClient, default_namespace

    async def connected() -> T:
        kube = await KubeClient.connect(kubeconfig, context)
        try:
            return await work(kube, namespace or default_namespace(kubeconfig, context))
        finally:
            await kube.close()

    try:
        return asyncio.run(connected())
    except KeyboardInterrupt as error:
        raise typer.Exit(INTERRUPTED) from error
    except LLMBatchError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(exit_code(error)) from error


async def stored_job(kube: KubeClient, namespace: str, name: str) -> dict[str, Any]:
    """Return a job as it is stored.

    Raises:
        InputError: there is none of that name.
    """
    from llmbatch.cluster import paths

    body = await kube.get(paths.single(KIND, namespace, name))
    if body is None:
        raise InputError.of("NAME", name, f"no LLMBatchJob of namespace {namespace}")
    return body
