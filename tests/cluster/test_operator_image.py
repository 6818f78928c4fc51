"""The operator's image: built from the Dockerfile, and run as a hardened pod runs it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from testbed.controlplane import free_port

from imagekit import REPOSITORY, USER, Store, build_operator, confined, missing
from llmbatch import __version__

pytestmark = pytest.mark.cluster
LARGEST_MEGABYTES = 200
READY_SECONDS = 180


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    if why := missing():
        pytest.skip(f"no image can be built: {why}")
    folder = Path(tempfile.mkdtemp(prefix="llmbatch-image-"))
    try:
        yield Store(folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def image(store: Store) -> str:
    return build_operator(store, VERSION="1.2.3", REVISION="abc")


@pytest.fixture(scope="module")
def root(store: Store, image: str) -> Path:
    return store.unpack(image)


@pytest.fixture(scope="module")
def environment(store: Store, image: str) -> dict[str, str]:
    return store.environment(image)


def run(root: Path, environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(confined(root, *command), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_runs_the_command_as_a_numbered_user(store: Store, image: str, root: Path, environment: dict[str, str]):
    assert store.user(image) == USER
    assert run(root, environment, "llmbatch", "--version") == __version__
    assert "Run the controller until SIGTERM" in run(root, environment, "llmbatch", "operator", "--help")


def test_it_says_what_it_is(store: Store, image: str):
    labels = store.labels(image)
    assert labels["org.opencontainers.image.version"] == "1.2.3"
    assert labels["org.opencontainers.image.revision"] == "abc"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_it_holds_the_locked_libraries_and_none_of_the_heavy_ones(root: Path, environment: dict[str, str]):
    script = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    printed = run(root, environment, "python", "-c", script)
    found = {name.lower().replace("_", "-"): v for name, v in json.loads(printed).items()}
    packages = tomllib.loads((REPOSITORY / "uv.lock").read_text())["package"]
    locked = {(package["name"], package.get("version", __version__)) for package in packages}
    assert set(found.items()) <= locked
    assert {"kopf", "kubernetes", "llmbatch"} <= found.keys()
    assert not {"ray", "vllm", "torch", "numpy", "pyarrow", "pytest"} & found.keys()


def test_there_is_no_shell_and_no_installer(root: Path):
    assert not [name for name in ("bin/sh", "usr/bin/apt-get", "usr/bin/pip", "usr/local/bin/uv") if exists(root, name)]


def test_it_is_small(root: Path):
    """On a base of the packages that the distroless one is made of; the published one differs by a few megabytes."""
    measured = {"image": megabytes(root), "libraries and llmbatch": megabytes(root / "opt/llmbatch")}
    print(measured)
    assert measured["image"] < LARGEST_MEGABYTES


def test_it_serves_a_cluster_from_a_read_only_file_system(
    root: Path, environment: dict[str, str], kubeconfig: Path, tmp_path: Path
):
    port = free_port("127.0.0.1")
    command = confined(
        root, "llmbatch", "operator", "--kubeconfig", "/tmp/kubeconfig", "--port", str(port),
        given=[self_contained(kubeconfig, tmp_path)],
    )  # fmt: skip
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            wait_until_ready(process, port, tmp_path / "log")
            [uid] = {line.split()[1] for line in status(process).splitlines() if line.startswith("Uid:")}
            assert uid == USER.partition(":")[0]
        finally:
            process.terminate()
        assert process.wait(READY_SECONDS) == 0, (tmp_path / "log").read_text()


def exists(root: Path, name: str) -> bool:
    return (root / name).is_symlink() or (root / name).exists()


def megabytes(folder: Path) -> int:
    """Return the size of a folder's files, in 10^6 bytes as registries and `docker images` count."""
    files = (file.lstat() for file in folder.rglob("*") if not file.is_dir() or file.is_symlink())
    return round(sum({stat.st_ino: stat.st_size for stat in files}.values()) / 1e6)


def self_contained(kubeconfig: Path, folder: Path) -> Path:
    """Copy a kubeconfig with its certificate authority inside."""
    document = yaml.safe_load(kubeconfig.read_text())
    for entry in (found for found in document["clusters"] if "certificate-authority" in found["cluster"]):
        authority = Path(entry["cluster"].pop("certificate-authority"))
        entry["cluster"]["certificate-authority-data"] = base64.b64encode(authority.read_bytes()).decode()
    copy = folder / "kubeconfig"
    copy.write_text(yaml.safe_dump(document))
    return copy


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"not ready:\n{log.read_text()[-3000:]}")


def status(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/status").read_text()
