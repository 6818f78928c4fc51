"""A job's head, reached from outside the cluster through the API server's pod proxy, on the caller's own rights.

The API server takes `Authorization` for itself, so the job's token travels in `X-Ray-Authorization`, which Ray 2.60
and the control endpoint accept beside it. The caller needs `get` on the job's Secret and on `pods/proxy`.
"""

from __future__ import annotations

import base64
import json

from pydantic import ValidationError

from llmbatch.api.progress import Progress
from llmbatch.cluster import paths
from llmbatch.cluster.client import KubeClient, Object
from llmbatch.core.job.children.names import JOB_LABEL, RAY_NODE_TYPE_LABEL, child_name
from llmbatch.core.job.children.pods import CONTROL_PORT, JOBS_PORT, TOKEN_KEY
from llmbatch.core.job.snapshot import HEAD_GROUP
from llmbatch.errors import HeadError


class ProxiedHead:
    """The head of one job."""

    def __init__(self, kube: KubeClient, namespace: str, pod: str, token: str) -> None:
        self._kube = kube
        self._pod = paths.single("Pod", namespace, pod)
        self._headers = {"X-Ray-Authorization": f"Bearer {token}"}

    @classmethod
    async def find(cls, kube: KubeClient, namespace: str, job: str) -> ProxiedHead:
        """Return the head of a job.

        Raises:
            HeadError: the job has no head that is ready, or no token.
            ForbiddenError: the caller may not read the pods or the Secret.
        """
        query = {"labelSelector": f"{JOB_LABEL}={job},{RAY_NODE_TYPE_LABEL}={HEAD_GROUP}"}
        pods = (await kube.get(paths.collection("Pod", namespace), query) or {}).get("items", [])
        ready = [pod for pod in pods if _ready(pod)]
        if not ready:
            raise HeadError(f"{namespace}/{job} has no head that is ready: nothing runs at present")
        secret = await kube.get(paths.single("Secret", namespace, child_name(job, "token")))
        data = (secret or {}).get("data") or {}
        if TOKEN_KEY not in data:
            raise HeadError(f"{namespace}/{job} has no token")
        return cls(kube, namespace, ready[0]["metadata"]["name"], base64.b64decode(data[TOKEN_KEY]).decode())

    async def progress(self) -> Progress:
        """Return the runtime's Progress.

        Raises:
            HeadError: it did not answer with one.
        """
        text = await self._kube.get_text(f"{self._pod}:{CONTROL_PORT}/proxy/v1/progress", self._headers)
        try:
            return Progress.from_wire(text)
        except ValidationError as error:
            raise HeadError(f"no Progress: {error}") from error

    async def log(self, submission_id: str) -> str:
        """Return a driver's whole log so far.

        Raises:
            RejectedError: the head does not know the driver.
            HeadError: it did not answer with a log.
        """
        path = f"{self._pod}:{JOBS_PORT}/proxy/api/jobs/{submission_id}/logs"
        text = await self._kube.get_text(path, self._headers)
        try:
            answer: Object = json.loads(text)
        except ValueError as error:
            raise HeadError(f"no log: {text[:200]!r}") from error
        return str(answer.get("logs") or "")


def _ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
