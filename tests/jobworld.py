"""A cluster in memory that does what plans say: pods come and go, drivers run, and anything can fail.

It stands for the API server, KubeRay, the nodes and Ray. Time moves only in `step()`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from controllerkit import NOW, SETTINGS, UID, spec
from llmbatch.api.job import LLMBatchJobSpec, LLMBatchJobStatus, RowProgress
from llmbatch.api.progress import Progress, RunState
from llmbatch.core.job.children.names import PODS_FROM_ANNOTATION, QUEUE_LABEL
from llmbatch.core.job.decide import decide
from llmbatch.core.job.plan import (
    Action,
    CreateChild,
    DeleteRayCluster,
    EmitEvent,
    PatchWorkerGroup,
    Plan,
    SendCapacity,
    StopRayJob,
    SubmitRayJob,
)
from llmbatch.core.job.snapshot import (
    ChildObservation,
    ClusterFacts,
    GroupName,
    JobObservation,
    Notice,
    PodObservation,
    RayApiObservation,
    RayClusterObservation,
    RayJobObservation,
    RayJobState,
    RuntimeObservation,
    Snapshot,
    WorkerGroupObservation,
)
from plancheck import check, holds

START_SECONDS = 4.0
GRACE_SECONDS = 6.0


@dataclass
class Pod:
    """A pod and its machine."""

    name: str
    group: GroupName
    created_at: float
    notice: Notice | None = None
    gone_at: float | None = None


@dataclass
class Driver:
    """A submission on the head."""

    attempt: int
    state: RayJobState = "PENDING"
    exit_code: int | None = None
    run: RunState = "starting"
    error: str = ""
    drained_at: float | None = None


@dataclass
class World:
    """One job and everything around it."""

    spec: LLMBatchJobSpec = field(default_factory=spec)
    rows: int = 200
    now: float = NOW
    generation: int = 1
    status: LLMBatchJobStatus = field(default_factory=LLMBatchJobStatus)
    labels: dict[str, str] = field(default_factory=dict)
    facts: ClusterFacts = field(default_factory=ClusterFacts)
    committed: float = 0.0
    spot_nodes: int = 100
    missing_images: set[str] = field(default_factory=set)
    """Images that no registry has."""
    fails_with: list[str] = field(default_factory=list)
    drain_seconds: float = 0.0
    """What a driver that is asked to pause needs for what is in flight."""
    children: set[tuple[str, str]] = field(default_factory=set)
    cluster: RayClusterObservation | None = None
    pods: list[Pod] = field(default_factory=list)
    drivers: list[Driver] = field(default_factory=list)
    events: list[EmitEvent] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    writes: int = 0
    status_writes: int = 0
    pauses: int = 0
    resizes: int = 0
    _image: str = ""
    _serial: int = 0
    _seen_before: Snapshot | None = None

    # -- what a test does ------------------------------------------------------------------------

    def change(self, **changes: Any) -> None:
        """Change the spec, as kubectl would; None removes a field."""
        document = self.spec.model_dump(mode="json", by_alias=True, exclude_none=True) | changes
        self.spec = LLMBatchJobSpec.model_validate({k: v for k, v in document.items() if v is not None})
        self.generation += 1

    def replace_head(self) -> None:
        """Lose the head's machine: KubeRay makes another pod, the drivers are gone."""
        if any(pod.group == "head" for pod in self.pods):
            self.pods = [pod for pod in self.pods if pod.group != "head"]
            self.drivers.clear()

    def restart_head(self) -> None:
        """Restart the head's container: the same pod, the drivers are gone."""
        self.drivers.clear()

    def fail_driver(self, error: str, exit_code: int) -> None:
        """End the live driver."""
        for driver in self.drivers:
            if driver.state == "RUNNING":
                driver.state, driver.exit_code, driver.run, driver.error = "FAILED", exit_code, "failed", error

    def notice_spot(self, count: int, seconds: float = 20.0) -> list[str]:
        """Announce to the oldest spot workers that their machines go."""
        spot = [pod for pod in self.pods if pod.group == "spot" and pod.gone_at is None][:count]
        for pod in spot:
            pod.notice = Notice(kind="reclaim", source="spot-itn", deadline=self.now + seconds, observed_at=self.now)
            pod.gone_at = self.now + seconds
        return [pod.name for pod in spot]

    def cordon_spot(self, count: int) -> list[str]:
        """Cordon the nodes of the oldest spot workers, and leave it at that."""
        spot = [pod for pod in self.pods if pod.group == "spot" and pod.gone_at is None][:count]
        for pod in spot:
            pod.notice = Notice(kind="draining", source="node cordoned", spot_only=True)
        return [pod.name for pod in spot]

    def lose_spot(self) -> None:
        """Take every spot node away without notice, for good."""
        self.pods = [pod for pod in self.pods if pod.group != "spot"]
        self.spot_nodes = 0

    def lose_cluster(self) -> None:
        """Delete the RayCluster behind the operator's back."""
        self.cluster, self.pods, self.drivers = None, [], []

    def admit(self) -> None:
        """Let the queue admit the cluster."""
        assert self.cluster is not None
        self.cluster = self.cluster.model_copy(update={"suspended": False})

    def evict(self) -> None:
        """Let the queue take the cluster back: KubeRay deletes the pods, the head answers for a moment yet."""
        assert self.cluster is not None
        self.cluster = self.cluster.model_copy(update={"suspended": True})
        for pod in self.pods:
            pod.gone_at = self.now + GRACE_SECONDS
        self.fail_driver("InternalError: the head is gone", 3)

    # -- one pass --------------------------------------------------------------------------------

    def step(
        self,
        *,
        crash_after: int | None = None,
        fail_at: int | None = None,
        stale: bool = False,
        old_self: bool = False,
        lost: bool = False,
    ) -> Plan:
        """Observe, decide, check, apply, let time pass.

        Args:
            crash_after: The operator dies after so many writes of this pass.
            fail_at: The write of this number is refused: the actions after it wait for the next pass, the status is
                written all the same, unless it is the status that is refused.
            stale: All but the job is seen as the pass before saw it.
            old_self: The job is seen as the pass before saw it, as by a second operator; its status is refused then.
            lost: What would wake the job before its time is lost.
        """
        fresh = self.observe()
        snapshot = fresh
        before = self._seen_before
        if stale and before is not None:
            snapshot = before.model_copy(update={"job": fresh.job, "now": fresh.now})
        if old_self and before is not None:
            snapshot = fresh.model_copy(update={"job": before.job})
        outdated = snapshot.job.status != self.status
        self._seen_before = fresh
        plan = decide(snapshot)
        check(snapshot, plan)
        steps: list[Action | None] = [*plan.actions, None]
        if fail_at is not None:
            steps = [*plan.actions[:fail_at], *([None] if fail_at < len(plan.actions) else [])]
        for action in steps[:crash_after]:
            if action is None:
                if not outdated:
                    self._write(plan)
            else:
                self._do(action)
        wait = plan.requeue_after or 5.0
        self._pass(wait if lost else min(wait, 5.0))
        return plan

    def run(self, passes: int = 200, until: str = "") -> World:
        """Step until a condition holds, or so many times."""
        for _ in range(passes):
            if until and (holds(self.status, until) or self.status.phase == until):
                return self
            self.step()
        if until:
            raise AssertionError(f"never {until}: {json.dumps(self.status.to_wire(), indent=1)}")
        return self

    def observe(self) -> Snapshot:
        """Return what an observer would see."""
        return Snapshot(
            now=self.now,
            job=JobObservation(
                name="summarise",
                namespace="team",
                uid=UID,
                generation=self.generation,
                labels=self.labels,
                spec=self.spec,
                status=self.status,
            ),
            cluster=self.cluster,
            pods=tuple(self._seen(pod) for pod in self.pods),
            children=tuple(ChildObservation(kind=kind, name=name) for kind, name in sorted(self.children)),
            ray=self._ray(),
            runtime=self._runtime(),
            facts=self.facts,
            settings=SETTINGS,
        )

    def live_drivers(self) -> list[Driver]:
        """Return the drivers that have not ended."""
        return [driver for driver in self.drivers if driver.state in ("PENDING", "RUNNING")]

    # -- how it answers --------------------------------------------------------------------------

    def _ready(self, pod: Pod) -> bool:
        return self._pulled() and self.now - pod.created_at >= START_SECONDS

    def _pulled(self) -> bool:
        return self._image not in self.missing_images

    def works(self, pod: Pod) -> bool:
        """Tell whether a pod has a node and is ready."""
        return self._placed(pod) and self._ready(pod)

    def _placed(self, pod: Pod) -> bool:
        spot = [other for other in self.pods if other.group == "spot"]
        return pod.group != "spot" or spot.index(pod) < self.spot_nodes

    def _seen(self, pod: Pod) -> PodObservation:
        placed = self._placed(pod)
        return PodObservation(
            name=pod.name,
            group=pod.group,
            phase="Running" if placed and self._ready(pod) else "Pending",
            ready=placed and self._ready(pod),
            created_at=pod.created_at,
            node=f"node-{pod.name}" if placed else None,
            address="10.0.0.1",
            gpus=0 if pod.group == "head" else 1,
            terminating=pod.gone_at is not None and self.now >= pod.gone_at - GRACE_SECONDS,
            unschedulable="" if placed else "0/5 nodes are available: 5 Insufficient nvidia.com/gpu.",
            waiting_reason="ImagePullBackOff" if placed and not self._pulled() else "",
            notice=pod.notice,
        )

    def _head_ready(self) -> bool:
        return any(pod.group == "head" and self._ready(pod) for pod in self.pods)

    def _ray(self) -> RayApiObservation:
        if not self._head_ready():
            return RayApiObservation(unreachable_since=self.now)
        jobs = tuple(
            RayJobObservation(
                submission_id=f"{UID}-{driver.attempt}",
                state=driver.state,
                exit_code=driver.exit_code,
                final_progress=self._progress(driver) if driver.exit_code is not None else None,
            )
            for driver in self.drivers
        )
        return RayApiObservation(reachable=True, jobs=jobs)

    def _progress(self, driver: Driver) -> Progress:
        rows = RowProgress(rows_total=self.rows, rows_completed=int(self.committed))
        return Progress(
            state=driver.run, attempt=driver.attempt, rows=rows, error=driver.error, useful_gpus=self._useful()
        )

    def _useful(self) -> int:
        return max(1, min(100, int((self.rows - self.committed) / 10)))

    def _runtime(self) -> RuntimeObservation:
        live = self.live_drivers() if self._head_ready() else []
        return RuntimeObservation(progress=self._progress(live[0]) if live else None)

    def _write(self, plan: Plan) -> None:
        if plan.status == self.status:
            return
        self.status = LLMBatchJobStatus.model_validate(json.loads(json.dumps(plan.status.to_wire())))
        self.events += plan.events
        self.writes += 1
        self.status_writes += 1
        if plan.status.phase and self.phases[-1:] != [plan.status.phase]:
            self.phases.append(plan.status.phase)

    def _do(self, action: Action) -> None:
        self.writes += isinstance(action, CreateChild | PatchWorkerGroup | DeleteRayCluster)
        match action:
            case CreateChild():
                self._create(action)
            case PatchWorkerGroup():
                self._resize(action)
            case SubmitRayJob():
                self._submit(int(action.submission_id.rpartition("-")[2]))
            case StopRayJob():
                for driver in self.live_drivers():
                    driver.state = "STOPPED"
            case DeleteRayCluster():
                if self.cluster is not None and self.cluster.uid == action.uid:
                    self.lose_cluster()
            case SendCapacity():
                self._tell(action)

    def _submit(self, attempt: int) -> None:
        """Start a driver, unless the head cannot be reached or knows the submission already."""
        if self._head_ready() and attempt not in {driver.attempt for driver in self.drivers}:
            assert not self.live_drivers(), "two drivers at once"
            self.drivers.append(Driver(attempt=attempt))

    def _create(self, action: CreateChild) -> None:
        kind, name = action.manifest["kind"], action.manifest["metadata"]["name"]
        if kind != "RayCluster":
            self.children.add((kind, name))
            return
        if self.cluster is not None:
            return
        self._serial += 1
        head = action.manifest["spec"]["headGroupSpec"]["template"]["spec"]
        self._image = head["containers"][0]["image"]
        groups = tuple(
            WorkerGroupObservation(name=group["groupName"], index=index, replicas=group["replicas"])
            for index, group in enumerate(action.manifest["spec"]["workerGroupSpecs"])
        )
        self.cluster = RayClusterObservation(
            name=name,
            uid=f"cluster-{self._serial}",
            created_at=self.now,
            groups=groups,
            suspended=bool(action.manifest["spec"].get("suspend")),
            queue=action.manifest["metadata"]["labels"].get(QUEUE_LABEL, ""),
            pods_from=action.manifest["metadata"]["annotations"][PODS_FROM_ANNOTATION],
        )

    def _resize(self, action: PatchWorkerGroup) -> None:
        self.resizes += 1
        if self.cluster is None or self.cluster.uid != action.uid:
            return
        groups = list(self.cluster.groups)
        group = groups[action.index]
        if (group.name, group.replicas) != (action.group, action.from_replicas):
            return
        groups[action.index] = group.model_copy(
            update={"replicas": action.replicas, "workers_to_delete": action.workers_to_delete}
        )
        self.cluster = self.cluster.model_copy(update={"groups": tuple(groups)})
        for pod in self.pods:
            if pod.name in action.workers_to_delete and pod.gone_at is None:
                pod.gone_at = self.now + GRACE_SECONDS

    def _tell(self, action: SendCapacity) -> None:
        for driver in self.live_drivers():
            if not action.capacity.pause:
                driver.drained_at = None
            elif driver.state == "RUNNING":
                if driver.drained_at is None:
                    self.pauses += 1
                    driver.drained_at = self.now + self.drain_seconds
                if self.now >= driver.drained_at:
                    driver.state, driver.exit_code, driver.run = "SUCCEEDED", 0, "paused"

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        self.pods = [pod for pod in self.pods if pod.gone_at is None or pod.gone_at > self.now]
        if self.cluster is not None and not self.cluster.suspended:
            self._kuberay()
        for driver in self.live_drivers():
            self._advance(driver, seconds)

    def _kuberay(self) -> None:
        assert self.cluster is not None
        wanted = [("head", 1), *((group.name, group.replicas) for group in self.cluster.groups)]
        for group, count in wanted:
            named = next((g.workers_to_delete for g in self.cluster.groups if g.name == group), ())
            there = [pod for pod in self.pods if pod.group == group and pod.name not in named]
            for _ in range(count - len(there)):
                self._serial += 1
                self.pods.append(Pod(f"{group}-{self._serial}", group, self.now))  # type: ignore[arg-type]
            # Without a name to delete, KubeRay takes any.
            for pod in there[count:]:
                self.pods.remove(pod)

    def _advance(self, driver: Driver, seconds: float) -> None:
        if driver.state == "PENDING":
            driver.state, driver.run = "RUNNING", "running"
            if self.fails_with:
                self.fail_driver(self.fails_with.pop(0), 3)
            return
        working = [pod for pod in self.pods if pod.group != "head" and self.works(pod)]
        self.committed = min(self.rows, self.committed + len(working) * seconds)
        if self.committed >= self.rows:
            driver.state, driver.exit_code, driver.run = "SUCCEEDED", 0, "complete"
