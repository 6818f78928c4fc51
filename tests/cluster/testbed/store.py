"""`python -m testbed.store HOST PORT`: moto's S3 server, with a conditional put that is one step as S3's is."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from testbed.controlplane import end_with_parent, free_port

START_SECONDS = 120.0
REGION = "us-east-1"


class Store:
    """The server as a process of its own."""

    def __init__(self, host: str, log: Path) -> None:
        self.url = f"http://{host}:{free_port(host)}"
        """Where this machine and the pods reach it."""
        self._log = log
        command = [sys.executable, "-m", "testbed.store", host, self.url.rpartition(":")[2]]
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=Path(__file__).parents[1],
                preexec_fn=end_with_parent,
            )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a client; moto takes any key."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "testbed",
            "AWS_SECRET_ACCESS_KEY": "testbed",
        }

    def wait(self) -> None:
        """Return once it answers.

        Raises:
            RuntimeError: it ended, or does not answer in time.
        """
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(self.url, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError(f"the S3 server does not answer: {self._log.read_text()[-1000:]}")

    def fill(self, bucket: str, files: Iterable[tuple[str, bytes]]) -> None:
        """Make a bucket and put files, by key, into it."""
        self._put(bucket, None)
        for key, content in files:
            self._put(f"{bucket}/{key}", content)

    def read(self, bucket: str, key: str) -> bytes:
        """Return what a key holds."""
        import obstore
        from obstore.store import S3Store

        options = {"aws_" + name.removeprefix("AWS_").lower(): value for name, value in self.environment.items()}
        store = S3Store(bucket, config=options, client_options={"allow_http": True})
        return bytes(obstore.get(store, key).bytes())

    def _put(self, path: str, content: bytes | None) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"{self.url}/{path}", content, headers, method="PUT")
        with urllib.request.urlopen(request, timeout=START_SECONDS):
            pass

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def _serve(host: str, port: int) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    moto = DomainDispatcherApplication(create_backend_app)
    creating = threading.Lock()

    def application(environment: dict[str, Any], start: Callable[..., Any]) -> Any:
        # Moto looks for the key and then writes it, in threads; S3 does both at once.
        if "HTTP_IF_NONE_MATCH" not in environment:
            return moto(environment, start)
        with creating:
            return moto(environment, start)

    run_simple(host, port, application, threaded=True)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
