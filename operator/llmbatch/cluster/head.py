"""What runs on a job's Ray head: Ray's Jobs API (port 8265) and the runtime's control endpoint (port 8200).

Both take the job's token. `GET /api/jobs/` and the rest are those of Ray 2.60 (`dashboard/modules/job/job_head.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
import pydantic_core
from pydantic import ValidationError

from llmbatch.api.capacity import Capacity
from llmbatch.api.progress import FINAL_LINE, Progress
from llmbatch.core.job.children.pods import CONTROL_PORT, JOBS_PORT
from llmbatch.core.job.snapshot import RayJobObservation
from llmbatch.errors import HeadError, HeadTokenError

CONNECT_SECONDS = 2.0
REQUEST_SECONDS = 5.0
"""A head that answers later than this counts as silent in this pass."""
SUBMIT_SECONDS = 30.0
"""Ray's own limit for starting a driver's supervisor is longer; the next pass finds the submission anyway."""
MAX_ANSWER_BYTES = 8 * 2**20
"""No answer of use is longer: Progress has a few kilobytes."""
LAST_LINES = 20
"""Lines read off the end of a driver's log to find its final Progress: Ray may print after it."""


class Head(NamedTuple):
    """Where a head is reached."""

    address: str
    """The pod's IP."""
    token: str
    """The job's token."""
    jobs_port: int = JOBS_PORT
    """Port of Ray's Jobs API."""
    control_port: int = CONTROL_PORT
    """Port of the control endpoint."""

    @property
    def jobs(self) -> str:
        """Root of Ray's REST API."""
        return f"http://{_host(self.address)}:{self.jobs_port}"

    @property
    def control(self) -> str:
        """Root of the control endpoint."""
        return f"http://{_host(self.address)}:{self.control_port}"

    def __repr__(self) -> str:
        return f"Head({self.address})"


class HeadClient:
    """Talks to heads over one pool of connections."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def list_jobs(self, head: Head, prefix: str) -> tuple[RayJobObservation, ...]:
        """Return the submissions whose id begins with `prefix`."""
        jobs = await self._json("GET", f"{head.jobs}/api/jobs/", head)
        mine = [job for job in jobs if (job.get("submission_id") or "").startswith(prefix)]
        return tuple(_job(job) for job in mine)

    async def submit(self, head: Head, submission_id: str, entrypoint: str) -> None:
        """Submit a driver; that the head knows the id already counts as success."""
        body = {"submission_id": submission_id, "entrypoint": entrypoint}
        try:
            await self._json("POST", f"{head.jobs}/api/jobs/", head, body, seconds=SUBMIT_SECONDS)
        except HeadError:
            known = await self.list_jobs(head, submission_id)
            if all(job.submission_id != submission_id for job in known):
                raise

    async def stop(self, head: Head, submission_id: str) -> None:
        """Stop a driver: SIGTERM, and SIGKILL after Ray's grace."""
        await self._json("POST", f"{head.jobs}/api/jobs/{submission_id}/stop", head)

    async def last_lines(self, head: Head, submission_id: str, lines: int = LAST_LINES) -> list[str]:
        """Return the end of a driver's log."""
        # Ray knows the node by the submission, and refuses the question all the same where no node is named.
        query = {"submission_id": submission_id, "node_ip": head.address, "lines": str(lines)}
        text = await self._text("GET", f"{head.jobs}/api/v0/logs/file", head, query=query)
        return text.splitlines()

    async def final_progress(self, head: Head, submission_id: str) -> Progress | None:
        """Return the Progress that a driver that ended left as the last line of its log."""
        for line in reversed(await self.last_lines(head, submission_id)):
            if FINAL_LINE in line:
                return _progress(line.partition(FINAL_LINE)[2])
        return None

    async def progress(self, head: Head) -> Progress:
        """Return the runtime's Progress."""
        return _progress(await self._text("GET", f"{head.control}/v1/progress", head))

    async def send_capacity(self, head: Head, capacity: Capacity) -> Progress:
        """Tell the runtime what it may count on, and return its Progress."""
        return _progress(await self._text("PUT", f"{head.control}/v1/capacity", head, capacity.to_wire()))

    async def _json(self, method: str, url: str, head: Head, body: Any = None, seconds: float = REQUEST_SECONDS) -> Any:
        text = await self._text(method, url, head, body, seconds=seconds)
        try:
            return pydantic_core.from_json(text)
        except ValueError as error:
            raise HeadError(f"{method} {url}: no JSON: {text[:200]!r}") from error

    async def _text(
        self,
        method: str,
        url: str,
        head: Head,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        seconds: float = REQUEST_SECONDS,
    ) -> str:
        headers = {"Authorization": f"Bearer {head.token}"}
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        try:
            # Whatever runs on a head is the job's own: it must not send the operator elsewhere, nor fill its memory.
            async with self._session.request(
                method, url, json=body, params=query, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                text = await _bounded(answer)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise HeadError(f"{method} {url}: {type(error).__name__}: {error}") from error
        if answer.status in (401, 403):
            raise HeadTokenError(f"{method} {url}: {answer.status}")
        if answer.status >= 300:
            raise HeadError(f"{method} {url}: {answer.status}: {text[:500]}")
        return text


async def _bounded(answer: aiohttp.ClientResponse) -> str:
    read = bytearray()
    async for part in answer.content.iter_any():
        read += part
        if len(read) > MAX_ANSWER_BYTES:
            raise HeadError(f"{answer.method} {answer.url}: more than {MAX_ANSWER_BYTES} bytes")
    return read.decode(errors="replace")


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _job(job: Mapping[str, Any]) -> RayJobObservation:
    try:
        return RayJobObservation(
            submission_id=job["submission_id"],
            state=job["status"],
            message=job.get("message") or "",
            exit_code=job.get("driver_exit_code"),
        )
    except ValidationError as error:
        raise HeadError(f"job {job.get('submission_id')}: {error}") from error


def _progress(text: str) -> Progress:
    try:
        return Progress.from_wire(text)
    except ValidationError as error:
        raise HeadError(f"no Progress: {error}") from error
