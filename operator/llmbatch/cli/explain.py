"""`llmbatch explain`: what the operator would do in one pass, from a saved Snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from llmbatch.api.job import LLMBatchJobStatus
from llmbatch.cli.exits import INVALID
from llmbatch.core.job.decide import decide
from llmbatch.core.job.plan import (
    Action,
    CreateChild,
    DeleteRayCluster,
    PatchWorkerGroup,
    Plan,
    SendCapacity,
    StopRayJob,
    SubmitRayJob,
)
from llmbatch.core.job.snapshot import Snapshot


def explain(
    file: Annotated[Path, typer.Argument(help="Snapshot: JSON, as the operator saves it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole Plan as JSON.")] = False,
) -> None:
    """Print the Plan that follows from a Snapshot, and why. Exit code 2 when it is no Snapshot."""
    try:
        snapshot = Snapshot.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        typer.echo(f"{file}: must be a Snapshot document: {error}", err=True)
        raise typer.Exit(INVALID) from error
    plan = decide(snapshot)
    if as_json:
        typer.echo(plan.model_dump_json(by_alias=True, exclude_none=True, indent=2))
    else:
        typer.echo("\n".join(_lines(snapshot, plan)))


def _lines(snapshot: Snapshot, plan: Plan) -> list[str]:
    job = snapshot.job
    lines = [f"{job.namespace}/{job.name}: {job.status.phase or 'new'} -> {plan.status.phase or 'new'}"]
    lines += [f"because  {reason}" for reason in plan.reasons]
    lines += [f"do       {_action(action)}" for action in plan.actions] or ["do       nothing"]
    lines += [f"write    {change}" for change in _changes(job.status, plan.status)] or ["write    nothing"]
    lines += [f"event    {event.type} {event.reason}: {event.message}" for event in plan.events]
    again = "when something changes" if plan.requeue_after is None else f"in {plan.requeue_after:g} s at the latest"
    return [*lines, f"again    {again}"]


def _action(action: Action) -> str:
    match action:
        case CreateChild():
            return f"create {action.manifest['kind']} {action.manifest['metadata']['name']}"
        case PatchWorkerGroup():
            going = f", deleting {', '.join(action.workers_to_delete)}" if action.workers_to_delete else ""
            why = f" ({action.reason})" if action.reason else ""
            return f"resize {action.group} from {action.from_replicas} to {action.replicas}{going}{why}"
        case SubmitRayJob():
            return f"submit {action.submission_id}: {action.entrypoint}"
        case StopRayJob():
            return f"stop {action.submission_id}"
        case DeleteRayCluster():
            return f"delete RayCluster {action.name}"
        case SendCapacity():
            return f"send capacity {action.capacity.model_dump_json(by_alias=True, exclude_none=True)}"


def _changes(before: LLMBatchJobStatus, after: LLMBatchJobStatus) -> list[str]:
    changes = []
    known = {condition.type: condition for condition in before.conditions}
    for condition in after.conditions:
        old = known.get(condition.type)
        if old is None or (old.status, old.reason) != (condition.status, condition.reason):
            changes.append(f"{condition.type}={condition.status} {condition.reason} {condition.message}".rstrip())
    old_fields, new_fields = before.to_wire(), after.to_wire()
    for name in sorted(new_fields.keys() | old_fields.keys()):
        if name not in ("conditions", "updatedAt") and new_fields.get(name) != old_fields.get(name):
            changes.append(f"{name} {old_fields.get(name)} -> {new_fields.get(name)}")
    return changes
