"""What Argo CD, Flux and kstatus make of the statuses that the controller really writes.

The statuses come from stories of the in-memory cluster, where `decide()` wrote them; the tools' own libraries judge.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from testbed import binaries

from controllerkit import spec
from jobworld import World
from llmbatch.api.base import API_VERSION, KIND
from llmbatch.api.crd import UNSEEN
from llmbatch.core.job.snapshot import ClusterFacts

pytestmark = pytest.mark.cluster
GITOPS = Path(__file__).parents[2] / "examples" / "gitops"
QUEUED = {"kueue.x-k8s.io/queue-name": "gpus"}
Job = dict[str, Any]


class Story(NamedTuple):
    """A job's state, and what each tool is to say of it."""

    tell: Callable[[], World]
    argo: str
    message: str
    flux: str
    kstatus: str


def resumed_after_rest() -> World:
    world = World(spec=spec(suspend=True)).run(until="Suspended")
    world.change(suspend=False)
    return world


def starved() -> World:
    world = World(rows=5000, spec=spec(capacity={"spot": {"max": 4}})).run(until="Running")
    world.lose_spot()
    return world.run(until="Stalled")


def suspending() -> World:
    world = World(rows=5000).run(until="Running")
    world.change(suspend=True)
    return world.run(until="Suspending")


def out_of_money() -> World:
    budget = {"maxCost": 0.001, "prices": {"spot": 10, "onDemand": 30}}
    return World(rows=5000, spec=spec(budget=budget)).run(until="Suspended")


def failed() -> World:
    return World(spec=spec(failurePolicy={"backoffLimit": 0}), fails_with=["InternalError: broken"]).run(until="Failed")


def without_secret() -> World:
    return World(facts=ClusterFacts(missing_secrets=("reader",))).run(until="Stalled")


def refused() -> World:
    stage = {"name": "say", "engine": "simulated", "prompt": {"user": "{{ text }}"}, "resources": {"gpus": 8}}
    return World(spec=spec(stages=[stage], capacity={"gpusPerWorker": 1, "spot": {"max": 4}})).run(passes=2)


def complete() -> World:
    return World().run(until="Complete")


def complete_and_changed() -> World:
    world = complete()
    world.change(activeDeadlineSeconds=3600)
    world.step()
    return world


STORIES = {
    "new": Story(World, "Progressing", "not seen", "InProgress", "InProgress"),
    "refused": Story(refused, "Degraded", "InvalidSpec", "Failed", "Current"),
    "starting": Story(lambda: World().run(until="Starting"), "Progressing", "HeadNotReady", "InProgress", "Current"),
    "queued": Story(lambda: World(labels=QUEUED).run(passes=5), "Progressing", "Queued", "InProgress", "Current"),
    "running": Story(lambda: World().run(until="Running"), "Progressing", "DriverRunning", "InProgress", "Current"),
    "short of spot": Story(
        lambda: World(rows=5000, spot_nodes=1).run(until="Degraded"),
        "Progressing", "Insufficient", "InProgress", "Current",
    ),
    "without a worker": Story(starved, "Progressing", "Insufficient", "InProgress", "Failed"),
    "without its secret": Story(without_secret, "Degraded", "SecretMissing", "InProgress", "Failed"),
    "suspending": Story(suspending, "Progressing", "DriverRunning", "InProgress", "Current"),
    "suspended": Story(
        lambda: World(spec=spec(suspend=True)).run(until="Suspended"),
        "Suspended", "SuspendedByUser", "Current", "Current",
    ),
    "resumed, not seen yet": Story(resumed_after_rest, "Progressing", "not seen", "InProgress", "InProgress"),
    "out of money": Story(out_of_money, "Suspended", "BudgetExhausted", "InProgress", "Failed"),
    "failed": Story(failed, "Degraded", "BackoffLimitExceeded", "Failed", "Current"),
    "complete": Story(complete, "Healthy", "AllRowsCommitted", "Current", "Current"),
    "complete, then changed": Story(complete_and_changed, "Healthy", "AllRowsCommitted", "Current", "Current"),
}  # fmt: skip


@pytest.fixture(scope="module")
def jobs() -> dict[str, Job]:
    return {name: as_job(story.tell()) for name, story in STORIES.items()}


def as_job(world: World) -> Job:
    """Return the object as the API server has it."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "summarise", "namespace": "team", "generation": world.generation, "labels": world.labels},
        "spec": world.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
        "status": world.status.to_wire() if world.status_writes else UNSEEN,
    }


def ask(*questions: Job) -> list[Any]:
    done = subprocess.run(
        [binaries.path("gitops")], input=json.dumps(questions), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def customization(what: str) -> str:
    config = yaml.safe_load((GITOPS / "argocd" / "argocd-cm.yaml").read_text())
    return str(config["data"][f"resource.customizations.{what}.llmbatch.dev_LLMBatchJob"])


def actions() -> dict[str, str]:
    """Return the Lua of each action, and of `discovery`."""
    document = yaml.safe_load(customization("actions"))
    named = {definition["name"]: definition["action.lua"] for definition in document["definitions"]}
    return {"discovery": document["discovery.lua"], **named}


def test_argo_cd_shows_the_health_of_every_state(jobs: dict[str, Job]):
    script = customization("health")
    answers = dict(zip(jobs, ask(*({"lua": script, "object": job} for job in jobs.values())), strict=True))
    assert {name: answer["status"] for name, answer in answers.items()} == {n: s.argo for n, s in STORIES.items()}
    unclear = {n: answers[n]["message"] for n, story in STORIES.items() if story.message not in answers[n]["message"]}
    assert not unclear


def test_flux_waits_until_a_job_has_ended(jobs: dict[str, Job]):
    documents = yaml.safe_load_all((GITOPS / "flux" / "jobs.yaml").read_text())
    [kustomization] = [document for document in documents if document["kind"] == "Kustomization"]
    [check] = kustomization["spec"]["healthCheckExprs"]
    assert (check.pop("apiVersion"), check.pop("kind")) == (API_VERSION, KIND)
    answers = ask(*({"expressions": check, "object": job} for job in jobs.values()))
    found = {name: answer["status"] for name, answer in zip(jobs, answers, strict=True)}
    assert found == {name: story.flux for name, story in STORIES.items()}


def test_kstatus_without_expressions_says_what_the_docs_say(jobs: dict[str, Job]):
    answers = ask(*({"object": job} for job in jobs.values()))
    found = {name: answer["status"] for name, answer in zip(jobs, answers, strict=True)}
    assert found == {name: story.kstatus for name, story in STORIES.items()}


@pytest.mark.parametrize(
    ("state", "offered"),
    [
        ("new", {"suspend"}),
        ("running", {"suspend"}),
        ("suspended", {"resume"}),
        ("complete", set()),
        ("failed", set()),
    ],
)
def test_argo_cd_offers_what_can_be_done(jobs: dict[str, Job], state: str, offered: set[str]):
    [answer] = ask({"lua": actions()["discovery"], "object": jobs[state]})
    assert {name for name, action in answer.items() if not action["disabled"]} == offered


@pytest.mark.parametrize(("action", "suspend"), [("suspend", True), ("resume", False)])
def test_an_action_changes_suspend_and_nothing_else(jobs: dict[str, Job], action: str, suspend: bool):
    job = jobs["running" if suspend else "suspended"]
    [changed] = ask({"lua": actions()[action], "object": job})
    assert changed["spec"] == {**lua_of(job["spec"]), "suspend": suspend}
    assert changed["metadata"] == lua_of(job["metadata"])


def lua_of(value: Any) -> Any:
    """Return a value as it comes back from Lua, which has one kind of empty table (Argo CD mends that afterwards)."""
    if isinstance(value, dict):
        return {key: lua_of(item) for key, item in value.items()} or []
    return [lua_of(item) for item in value] if isinstance(value, list) else value
