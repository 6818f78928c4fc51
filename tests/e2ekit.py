"""One job from end to end: real KubeRay, real Ray in process nodes, an S3 store, the controller as a process.

Nothing is waited for by time alone. A `StatusChecker` reads the job every second and holds every status it sees
against what must be true of any status.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from testbed.controlplane import end_with_parent, free_port
from testbed.faults import Faults
from testbed.store import Store

from llmbatch.api.base import API_VERSION, KIND
from llmbatch.api.crd import UNSEEN
from llmbatch.cluster import paths
from llmbatch.core.job.snapshot import OperatorSettings
from operatorkit import Body, Kube, kube
from statuscheck import TERMINAL, after, alone

SETTINGS = OperatorSettings(
    image="llmbatch.example/runtime:testbed",
    head_cpu="500m",
    head_memory="2Gi",
    worker_cpu="500m",
    worker_memory="2Gi",
    object_store_bytes=100_000_000,
    grace_seconds=6,
    status_seconds=2,
)
RAY_ENVIRONMENT = [
    # Ray nices its workers by 15 under its other processes: on a machine that others use they never get on.
    {"name": "RAY_worker_niceness", "value": "0"},
    # A worker whose head is gone waits a minute for it to come back, by default.
    {"name": "RAY_gcs_rpc_server_reconnect_timeout_s", "value": "10"},
]
SPOT_NOTICE = "aws-node-termination-handler/spot-itn"
PATIENCE = 480.0
"""Longest wait for one condition, in seconds: a Ray node starts in 15 s on a machine of its own, else in minutes."""
INPUT, OUTPUT = "in", "out"


class World:
    """A namespace with nodes of its own, buckets, and the job under test."""

    def __init__(self, api: Kube, store: Store, folder: Path, name: str = "digest") -> None:
        self.api, self.store, self.folder, self.name = api, store, folder, name
        self.machines: dict[str, str] = {}
        """The nodes that are there, each with its market."""
        self.bucket = api.namespace
        self.ids: list[str] = []
        self._faults = Faults(api.client)
        self._made = Counter[str]()
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": store.environment}
        api.create(secret)

    def fill(self, rows: int, files: int = 3) -> None:
        """Put the input into the bucket: so many rows in so many files, one of them compressed."""
        self.ids = [f"row-{number:05}" for number in range(rows)]
        lines = [json.dumps({"id": name, "text": f"the text of {name}"}) + "\n" for name in self.ids]
        parts = ["".join(lines[start::files]).encode() for start in range(files)]
        named = [(f"{INPUT}/part-{number}.jsonl", part) for number, part in enumerate(parts[1:])]
        self.store.fill(self.bucket, [(f"{INPUT}/part-z.jsonl.gz", gzip.compress(parts[0])), *named])

    def job(self, seconds_per_row: float, workers: int, **spec: Any) -> Body:
        """Return a chain of three GPU stages; the first takes half of `seconds_per_row`, the others a quarter each."""
        storage = {"secretName": "s3", "allowHttp": True}

        def stage(name: str, of: str, share: float) -> Body:
            return {
                "name": name,
                "engine": "simulated",
                "prompt": {"user": f"Make a {name} of {{{{ {of} }}}}"},
                "replicas": {"max": workers},
                "resources": {"gpus": 1, "cpus": 0.25},
                "batchSize": 5,
                "simulation": {"secondsPerRow": seconds_per_row * share, "loadSeconds": 1},
            }

        stages = [stage("draft", "text", 0.5), stage("summary", "draft", 0.25), stage("verdict", "summary", 0.25)]
        capacity = {
            "spot": {"max": workers, "nodeSelector": self.labels("spot")},
            "onDemand": {"max": 2, "nodeSelector": self.labels("on-demand")},
            "fallback": {"afterSeconds": 10, "returnAfterSeconds": 5},
        }
        body = {
            "input": {
                "uri": f"s3://{self.bucket}/{INPUT}/*.jsonl*", "format": "jsonl", "idField": "id", "storage": storage
            },
            "stages": stages,
            "output": {"uri": f"s3://{self.bucket}/{OUTPUT}", "storage": storage},
            "shardRows": 10,
            "capacity": capacity,
            "podOverlay": {"spec": {"containers": [{"name": "ray", "env": RAY_ENVIRONMENT}]}},
            **spec,
        }  # fmt: skip
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": self.name}, "spec": body}

    def labels(self, market: str) -> dict[str, str]:
        return {"example.com/test": self.api.namespace, "example.com/capacity": market}

    def come(self, market: str, count: int = 1) -> list[str]:
        """Add machines."""
        names = []
        for _ in range(count):
            name = f"{market}-{self._made[market]}-{self.api.namespace[2:]}"
            self._made[market] += 1
            self.api.thread.run(self._faults.come(name, **self.labels(market)))
            self.machines[name] = market
            names.append(name)
        return names

    def vanish(self, *names: str) -> None:
        """Take machines away without notice."""
        for name in names:
            self.api.thread.run(self._faults.vanish(name))
            del self.machines[name]

    def notice(self, *names: str) -> None:
        """Taint machines as AWS' Node Termination Handler does two minutes before the end."""
        for name in names:
            self.api.thread.run(self._faults.taint(name, SPOT_NOTICE))

    @property
    def spot(self) -> list[str]:
        return [name for name, market in self.machines.items() if market == "spot"]

    def status(self) -> Body:
        """Return the job's status; empty before the first one."""
        status: Body = (self.api.get(KIND, self.name) or {}).get("status") or {}
        return status

    def until(self, what: str, holds: Callable[[Body], Any], seconds: float = PATIENCE) -> Body:
        """Wait for a status of which something holds, and return it; a job that ended before is a failed wait."""
        print(f"{time.strftime('%H:%M:%S')} {what}?", flush=True)
        deadline = time.monotonic() + seconds
        while True:
            status = self.status()
            if holds(status):
                return status
            assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s; {status}"
            ended = status.get("phase") in TERMINAL and not holds(self.status())
            assert not ended, f"{what}: the job ended before; {status}"
            time.sleep(0.25)

    def until_true(self, what: str, holds: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        return self.until(what, lambda _: holds(), seconds)

    def workers(self) -> list[Body]:
        """Return the worker pods that are there and stay."""
        pods = self.api.items("Pod")
        return [
            pod
            for pod in pods
            if pod["metadata"]["labels"].get("ray.io/node-type") == "worker"
            and "deletionTimestamp" not in pod["metadata"]
        ]

    def head(self) -> Body | None:
        heads = [pod for pod in self.api.items("Pod") if pod["metadata"]["labels"].get("ray.io/node-type") == "head"]
        return heads[0] if heads else None

    def kill_head(self) -> None:
        """Kill the head's processes, and have its pod forgotten at once."""
        head = self.head()
        assert head is not None
        path = paths.single("Pod", self.api.namespace, head["metadata"]["name"])
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        self.api.thread.run(self.api.client._request("DELETE", path, options))

    def busy(self) -> list[str]:
        """Return the spot machines that hold a worker that is ready."""
        return sorted({pod["spec"].get("nodeName") for pod in self.workers() if ready(pod)} & set(self.spot))

    def rows(self) -> list[Body]:
        """Return the rows that count, by `_FINAL`."""
        final = json.loads(self._read("_FINAL"))
        winners = pq.read_table(io.BytesIO(self._read(final["winners"]["key"]))).to_pylist()
        return [row for winner in winners for row in pq.read_table(io.BytesIO(self._read(winner["data"]))).to_pylist()]

    def _read(self, key: str) -> bytes:
        return self.store.read(self.bucket, f"{OUTPUT}/{key}")

    def assert_every_row_once(self) -> None:
        rows = self.rows()
        assert Counter(row["id"] for row in rows) == Counter(self.ids)
        assert all(row["draft"] and row["summary"] and row["verdict"] and row["error"] is None for row in rows)

    def close(self) -> None:
        for name in list(self.machines):
            self.vanish(name)

    def describe(self) -> None:
        """Print what a person would look at first."""
        print(yaml.safe_dump(self.status()))
        for pod in self.api.items("Pod"):
            states = [item["state"] for item in pod["status"].get("containerStatuses") or []]
            print(pod["metadata"]["name"], pod["spec"].get("nodeName"), pod["status"].get("phase"), states)
        for event in self.api.items("Event"):
            when = event.get("eventTime") or event.get("deprecatedLastTimestamp")
            print(when, event["reason"], event.get("note", "")[:200])
        for log in self.folder.glob("controller*.log"):
            print(f"--- {log.name}\n{log.read_text()[-6000:]}")


def done(status: Body) -> int:
    """Return the rows that a status says are committed."""
    return int(status.get("progress", {}).get("rowsCompleted", 0))


def preempted(status: Body) -> int:
    """Return the workers that a status says were taken away."""
    return int(status.get("preemptions", {}).get("total", 0))


def condition(status: Body, kind: str) -> str:
    """Return whether a condition holds; blank while it is not there."""
    found = [item["status"] for item in status.get("conditions", []) if item["type"] == kind]
    return found[0] if found else ""


def ready(pod: Body) -> bool:
    """Tell whether a pod is ready."""
    return condition(pod["status"], "Ready") == "True"


class Controller:
    """`llmbatch operator` as a process."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._settings = world.folder / "settings.yaml"
        self._settings.write_text(yaml.safe_dump(SETTINGS.model_dump(by_alias=True, mode="json", exclude_none=True)))
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        api = self._world.api
        command = [
            str(Path(sys.executable).parent / "llmbatch"), "operator", "--kubeconfig", str(api.kubeconfig),
            "--namespace", api.namespace, "--settings", str(self._settings), "--port", str(free_port("127.0.0.1")),
        ]  # fmt: skip
        self._starts += 1
        with (self._world.folder / f"controller-{self._starts}.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=end_with_parent)

    def kill(self) -> None:
        """End it as kill -9 does."""
        assert self._process is not None
        assert self._process.poll() is None, "the controller ended by itself"
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(PATIENCE)


class StatusChecker(threading.Thread):
    """Reads a job every second and asserts what must be true of every status, and from one to the next."""

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self._world = world
        self._stop_asked = threading.Event()
        self._last: Body = {}
        self._uid = ""
        self.seen: list[Body] = []
        """Every status that differs from the one before."""
        self.problems: list[str] = []

    def run(self) -> None:
        while not self._stop_asked.wait(1.0):
            job = self._world.api.get(KIND, self._world.name)
            if job is None or job["status"]["observedGeneration"] == UNSEEN["observedGeneration"]:
                continue
            if job["metadata"]["uid"] != self._uid:
                self._uid, self._last = job["metadata"]["uid"], {}
            status = job["status"]
            if status != self._last:
                self.seen.append(status)
                found = [
                    *alone(status, job["metadata"]["generation"], len(self._world.ids)),
                    *after(self._last, status),
                ]
                self.problems += [f"{problem}\n  before: {self._last}\n  now: {status}" for problem in found]
                self._last = status

    def stop(self) -> None:
        self._stop_asked.set()
        if self.is_alive():
            self.join()

    def verdict(self) -> None:
        """Fail the test by what was wrong in any status."""
        assert not self.problems, "\n".join(self.problems)


@contextlib.contextmanager
def world(
    kubeconfig: Path, store: Store, folder: Path, *, checked: bool = True
) -> Iterator[tuple[World, Controller, StatusChecker]]:
    """A namespace, a controller that is not started yet, and a checker that looks on."""
    with kube(kubeconfig) as api:
        made = World(api, store, folder)
        controller, checker = Controller(made), StatusChecker(made)
        if checked:
            checker.start()
        try:
            yield made, controller, checker
        except BaseException:
            made.describe()
            raise
        finally:
            checker.stop()
            controller.stop()
            made.close()
        checker.verdict()
