"""Fixtures: moto's S3 server on loopback, buckets in it, and a proxy that gives faults."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.controlplane import free_port

from s3kit import FaultProxy, S3Server, running_proxy


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Moto's server in a process of its own."""
    port = free_port("127.0.0.1")
    command = shutil.which("moto_server", path=str(Path(sys.executable).parent))
    assert command is not None, "moto[server] is a development dependency"
    process = subprocess.Popen(
        [command, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_it_listens(port, process)
        yield S3Server(port)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "moto_server ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("moto_server did not listen within 120 s")


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """An empty bucket."""
    return s3_server.bucket()


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    """A proxy before the server: without faults until told, and atomic in its creates."""
    with running_proxy(s3_server.port) as running:
        yield running
