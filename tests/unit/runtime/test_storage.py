"""Stores: addresses, the atomic create, and errors that name field, value and what is allowed."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, LocalStore, MemoryStore

from ledgerkit import NO_WAIT, FaultyStore, no_fault
from llmbatch.api.job import Storage
from llmbatch.errors import InputError, OutputError, StorageBusyError
from llmbatch.runtime.storage import Folder, Retry, local_path, open_store, translate


def folder_at(path: Path | str, **options) -> Folder:
    return Folder(str(path), retry=NO_WAIT, **options)


def test_the_first_create_wins_and_everyone_reads_the_same(tmp_path):
    folder = folder_at(tmp_path)
    assert folder.create_or_read("a/b", b"mine") == b"mine"
    assert folder.create_or_read("a/b", b"other") == b"mine"
    assert folder.put_if_absent("a/b", b"mine")
    assert not folder.put_if_absent("a/b", b"other")
    assert folder.read("a/b") == b"mine"


def test_many_threads_create_one_key_and_one_wins(tmp_path):
    wins: list[int] = []

    def race(number: int) -> None:
        if folder_at(tmp_path).put_if_absent("key", b"%d" % number):
            wins.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert folder_at(tmp_path).read("key") == b"%d" % wins[0]


def test_a_create_that_won_and_lost_its_answer_is_known_to_have_won():
    store = FaultyStore(MemoryStore(), lambda number, name, key: "lost answer" if number == 0 else None)
    folder = folder_at("x", _store=store)
    assert folder.create_or_read("key", b"mine") == b"mine"
    assert [name for name, _ in store.calls] == ["put", "put", "get"]


def test_a_conflict_on_a_key_that_does_not_exist_is_tried_again():
    store = FaultyStore(MemoryStore(), lambda number, name, key: "409" if number < 6 else None)
    assert folder_at("x", _store=store).create_or_read("key", b"mine") == b"mine"
    assert [name for name, _ in store.calls] == ["put", "get"] * 3 + ["put"]


@pytest.mark.parametrize("fault", ["409", "503"])
def test_a_store_that_stays_busy_gives_up_as_busy(fault):
    store = FaultyStore(MemoryStore(), lambda number, name, key: fault if name == "put" else None)
    pauses: list[float] = []
    retry = Retry(tries=4, first=1.0, longest=3.0, sleep=pauses.append, draw=lambda bound: bound)
    folder = Folder("s3://bucket/out", retry=retry, _store=store)
    with pytest.raises(StorageBusyError, match=r"^output.uri: 's3://bucket/out': .*try again later$"):
        folder.create_or_read("key", b"mine")
    assert pauses == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("uri", "storage", "field"),
    [
        ("ftp://host/x", {}, "output.uri"),
        ("gs://bucket/x", {"region": "eu"}, "output.storage.region"),
        ("s3://bucket/x", {"region": "eu\n"}, "output.storage.region"),
        ("gs://bucket/x", {"endpoint": "https://x"}, "output.storage.endpoint"),
        ("s3://bucket/x", {"endpoint": "http://x"}, "output.storage.endpoint"),
    ],
)
def test_an_address_of_no_use_is_refused_by_field(uri, storage, field):
    with pytest.raises(OutputError, match=f"^{field}: "):
        open_store(uri, Storage.model_validate(storage))
    with pytest.raises(InputError, match=f"^{field.replace('output', 'input')}: "):
        open_store(uri, Storage.model_validate(storage), name="input.uri")


@pytest.mark.parametrize(
    "variable",
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"],
)
@pytest.mark.parametrize("value", ["SECRET\n", " SECRET", "SEC\tRET", "SECRET\x7f", "SECRET\u2028"])
def test_credentials_that_no_header_can_hold_are_refused_unseen(variable, value, monkeypatch):
    for each in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(each, "well")
    monkeypatch.setenv(variable, value)
    for name, error in (("output.uri", OutputError), ("input.uri", InputError)):
        with pytest.raises(error, match=f"^{name}: 's3://bucket/x': {variable} in the environment must hold") as told:
            open_store("s3://bucket/x", Storage(), name=name)
        assert "SEC" not in str(told.value).replace(variable, "")
    open_store("s3://bucket/x", Storage(anonymous=True, region="eu-central-1"))
    open_store("gs://bucket/x", Storage())


@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_a_google_address_opens_its_bucket(scheme):
    store = open_store(f"{scheme}://bucket/a%20b/out/", Storage())
    assert isinstance(store, GCSStore)
    assert (store.config["bucket"], store.prefix) == ("bucket", "a b/out")


@pytest.mark.parametrize(
    "uri",
    [
        "abfs://docs@team.dfs.core.windows.net/a/out",
        "abfss://docs@team.dfs.core.windows.net/a/out",
        "az://docs/a/out",
        "azure://docs/a/out",
    ],
)
def test_an_azure_address_opens_its_container(uri, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "team")
    store = open_store(uri, Storage())
    assert isinstance(store, AzureStore)
    assert (store.config["container_name"], store.prefix) == ("docs", "a/out")


def test_an_azure_address_without_an_account_is_refused_by_field(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(OutputError, match=r"^output.uri: 'az://docs/out': .*Account must be specified"):
        open_store("az://docs/out", Storage())


def test_a_local_folder_is_made_only_when_asked(tmp_path):
    path = tmp_path / "a b" / "c"
    with pytest.raises(FileNotFoundError):
        open_store(str(path), Storage())
    assert isinstance(open_store(path.as_uri(), Storage(), create=True), LocalStore)
    assert path.is_dir()


@given(st.lists(st.text("ab %#é.", min_size=1, max_size=4).filter(lambda part: part.strip(".")), min_size=1))
def test_file_uris_and_paths_name_the_same_place(parts):
    path = Path("/", *parts)
    assert local_path(path.as_uri()) == path == local_path(str(path))


def test_relative_paths_are_taken_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_path("out/x") == tmp_path / "out" / "x"


def test_listing_is_recursive_and_relative(tmp_path):
    folder = folder_at(tmp_path)
    for key in ("a/1", "a/b/22", "ab/3"):
        folder.put(key, key.encode())
    assert sorted((entry.key, entry.size) for entry in folder.entries("a/")) == [("a/1", 3), ("a/b/22", 6)]
    assert list(folder.entries("none/")) == []


def test_deleting_what_is_gone_is_no_error(tmp_path):
    folder = folder_at(tmp_path)
    folder.put("a", b"1")
    folder.put("c", b"1")
    folder.delete(["a", "b", "c"])
    assert list(folder.entries("")) == []
    assert folder.size("a") is None


def test_a_folder_pickles_as_its_address(tmp_path):
    folder = folder_at(tmp_path)
    folder.put("a", b"1")
    twin = pickle.loads(pickle.dumps(folder))
    assert twin == folder
    assert twin.read("a") == b"1"


def test_a_path_below_a_file_cannot_be_an_output(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"^output.uri: '.*/file/out': Not a directory; every part"):
        folder_at(tmp_path / "file" / "out").put("a", b"1")


def test_a_folder_of_another_user_is_refused(tmp_path):
    """Root passes every permission check, so a child gives its rights up first."""
    script = """
import os, sys
from llmbatch.errors import OutputError
from llmbatch.runtime.storage import Folder
folder = Folder(sys.argv[1])
folder.store
if os.geteuid() == 0:
    os.setuid(65534)
try:
    folder.create_or_read("a/b", b"1")
except OutputError as error:
    print(error)
"""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    told = subprocess.run(
        [sys.executable, "-c", script, str(closed)], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert told.startswith(f"output.uri: {str(closed)!r}: Permission denied (at a/b); the path must be a folder")


def test_a_full_disk_says_so_and_keeps_what_is_there(tmp_path, small_disk):
    folder = folder_at(small_disk)
    assert folder.put_if_absent("first", b"x" * 1000)
    for write in (folder.put, folder.create_or_read):
        with pytest.raises(OutputError, match=r"^output.uri: .*: No space left on device \(at big\); free"):
            write("big", b"x" * 2_000_000)
    assert folder.read("first") == b"x" * 1000
    assert [entry.key for entry in folder.entries("")] == ["first"]


def test_a_read_only_file_system_says_so(small_disk):
    folder_at(small_disk).put("first", b"1")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutputError, match=r"Read-only file system \(at a\); the file system must be mounted"):
        folder_at(small_disk).put("a", b"1")


@pytest.fixture
def small_disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a small tmpfs needs root; the file size limit is tested without")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_the_file_size_limit_says_so(tmp_path):
    script = """
import resource, signal, sys
from llmbatch.errors import OutputError
from llmbatch.runtime.storage import Folder
folder = Folder(sys.argv[1])
folder.put("first", b"x" * 1000)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    folder.put("big", b"x" * 100_000)
except OutputError as error:
    print(error)
"""
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert "File too large (at big); raise the file size limit (ulimit -f)" in told
    assert folder_at(tmp_path).read("first") == b"x" * 1000


def test_an_error_shows_no_signature():
    error = exceptions.GenericError("Generic Azure error: PUT https://a.b/c?sig=SECRET&se=1 failed\nDebug: SECRET")
    assert "SECRET" not in str(translate(error, "output.uri", "az://c/x"))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (exceptions.PermissionDeniedError("no"), "allowed to list, read and write here"),
        (exceptions.UnauthenticatedError("no"), "set valid credentials in the environment"),
        (exceptions.GenericError("Server returned non-2xx status code: 301 Moved"), "storage.region must be"),
        (OSError(errno.EROFS, "x"), "must be mounted writable"),
    ],
)
def test_what_the_user_must_change_is_named(error, advice):
    translated = translate(error, "output.uri", "s3://b/x")
    assert isinstance(translated, OutputError)
    assert advice in str(translated)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_can_succeed_later_is_busy(status):
    error = exceptions.GenericError(f"Generic S3 error: Server returned non-2xx status code: {status} X")
    assert isinstance(translate(error, "output.uri", "s3://b/x"), StorageBusyError)


def test_no_call_goes_unreported_by_the_fault_store():
    store = FaultyStore(MemoryStore(), no_fault)
    folder = folder_at("x", _store=store)
    folder.put("a", b"1")
    folder.read("a")
    folder.size("a")
    list(folder.entries(""))
    folder.delete(["a"])
    assert [name for name, _ in store.calls] == ["put", "get", "head", "list", "delete"]
