"""The ledger's store on Azure Blob Storage, by its emulator: `make test-s3` installs Azurite where npm is there."""

import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from testbed.controlplane import free_port

from llmbatch.api.job import Storage
from llmbatch.errors import OutputError
from llmbatch.runtime.storage import Folder

pytestmark = pytest.mark.s3

ACCOUNT = "devstoreaccount1"
# Published by Microsoft for every emulator: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    """The storage section that reaches an emulator with an empty container `docs`."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not on the path")
    port = free_port("127.0.0.1")
    options = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--blobPort", str(port)]
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_it_listens(port)
            make_container(port, "docs")
            yield Storage(endpoint=f"http://127.0.0.1:{port}/{ACCOUNT}", allow_http=True)
        finally:
            process.terminate()


def wait_until_it_listens(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("azurite-blob did not listen within 120 s")


def make_container(port: int, name: str) -> None:
    """Create a container, which obstore cannot: one request, signed with the shared key."""
    moment = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": moment, "x-ms-version": "2021-08-06"}
    named = "".join(f"{key}:{value}\n" for key, value in headers.items())
    text = "PUT" + "\n" * 12 + f"{named}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
    url = f"http://127.0.0.1:{port}/{ACCOUNT}/{name}?restype=container"
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=30):
        pass


@pytest.fixture(params=["az://docs/{}", f"abfs://docs@{ACCOUNT}.dfs.core.windows.net/{{}}"])
def folder(storage: Storage, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """An empty folder, by each kind of address."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    return Folder(request.param.format(f"out{time.monotonic_ns()}"), storage)


def test_the_first_create_wins_among_many(folder: Folder) -> None:
    wins: list[int] = []

    def race(number: int) -> None:
        if folder.put_if_absent("_ledger/key", b"%d" % number):
            wins.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [folder.read("_ledger/key")] == [b"%d" % number for number in wins]
    folder.check_create_is_atomic("_ledger/key", b"%d" % wins[0])


def test_what_is_written_is_listed_read_and_deleted(folder: Folder) -> None:
    folder.put("data/a", b"1")
    folder.put("data/b", b"22")
    assert [(entry.key, entry.size) for entry in folder.entries("data/")] == [("data/a", 1), ("data/b", 2)]
    assert (folder.read("data/b"), folder.size("data/b"), folder.read("data/c")) == (b"22", 2, None)
    folder.delete(["data/a"])
    assert [entry.key for entry in folder.entries("")] == ["data/b"]


def test_a_wrong_key_is_refused_by_field(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(b"wrong").decode())
    with pytest.raises(OutputError, match=r"^output.uri: .*the credentials in the environment must be allowed to"):
        folder.put_if_absent("key", b"1")
