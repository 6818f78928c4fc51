"""`llmbatch operator`: the controller's process."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml
from pydantic import ValidationError

from llmbatch.cli.exits import FAILED, exit_code
from llmbatch.core.job.snapshot import OperatorSettings
from llmbatch.errors import LLMBatchError, SpecError


def operator(
    settings: Annotated[Path | None, typer.Option(help="Settings for every job: YAML, docs/controller.md.")] = None,
    namespace: Annotated[
        list[str] | None, typer.Option("--namespace", "-n", help="Serve this namespace only; may be repeated.")
    ] = None,
    watch_nodes: Annotated[
        bool, typer.Option(help="Watch nodes. Without, preemption is seen on pods alone and no cluster role is needed.")
    ] = True,
    kubeconfig: Annotated[Path | None, typer.Option(help="Left out: KUBECONFIG, ~/.kube/config, or the pod's.")] = None,
    port: Annotated[int, typer.Option(help="Port of /healthz, /readyz and /metrics.")] = 8080,
    snapshots: Annotated[
        Path | None, typer.Option(help="Keep the latest Snapshot of each job here, for `llmbatch explain`.")
    ] = None,
    log_level: Annotated[Literal["debug", "info", "warning"], typer.Option(help="What is logged.")] = "info",
) -> None:
    """Run the controller until SIGTERM. One process serves a namespace: a second one only contends with it."""
    from llmbatch.controller.app import Options, run_operator

    _log_to_stderr(log_level)
    try:
        if snapshots is not None:
            snapshots.mkdir(parents=True, exist_ok=True)
        options = Options(
            kubeconfig=kubeconfig,
            namespaces=tuple(namespace or ()),
            watch_nodes=watch_nodes,
            port=port,
            snapshots=snapshots,
        )
        asyncio.run(run_operator(options, _settings(settings)))
    except (LLMBatchError, OSError) as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(exit_code(error) if isinstance(error, LLMBatchError) else FAILED) from error


def _settings(file: Path | None) -> OperatorSettings:
    if file is None:
        return OperatorSettings()
    try:
        return OperatorSettings.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise SpecError.of("--settings", str(file), f"must be operator settings: {error}") from error


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # One line an event of each pod and node, and every header of each request, the token's included.
    for name in ("kopf", "kubernetes", "asyncio", "aiohttp"):
        logging.getLogger(name).setLevel(logging.WARNING)
