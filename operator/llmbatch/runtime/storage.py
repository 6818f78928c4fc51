"""Object stores and local folders: opening them, the atomic create, and errors a user can act on.

Everything goes through obstore (Rust's object_store), whose behaviour the exactly-once protocol rests on:

- An S3 create sends `If-None-Match: *`; a local create writes a staging file and hard-links it into place.
- A create that S3 answers with 412 (the key exists) and one it answers with 409 (another write of the key is
  going on, retry) both raise `AlreadyExistsError`. So does a create that won, lost its answer and was sent
  again. The exception therefore proves nothing: who won is decided by reading the object back.
- Throttling and server errors (429, 5xx) and dropped connections are retried inside obstore; a request that
  timed out is not, because its outcome is unknown.
"""

from __future__ import annotations

import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from obstore import exceptions
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from llmbatch.api.job import Storage, is_remote
from llmbatch.errors import InputError, LLMBatchError, OutputError, StorageBusyError

if TYPE_CHECKING:
    from obstore.store import BackoffConfig, ClientConfig, ObjectStore, RetryConfig

ALLOWED = "a local path, file://, s3://, gs://, abfs://, abfss:// or az://"
S3_SCHEMES = ("s3", "s3a")
GCS_SCHEMES = ("gs", "gcs")
AZURE_SCHEMES = ("abfs", "abfss", "az", "azure", "adl")
S3_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION")
"""What obstore signs a request with. It panics where a header cannot hold it, and the panic passes every handler."""
LIST_CHUNK = 1000
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_STAGED = re.compile(r"#\d+$")
_STATUS = re.compile(r"status code: (\d{3})")
_QUERY = re.compile(r"\?[^\s:]+")


def _even_draw(bound: float) -> float:
    return random.uniform(0.0, bound)  # noqa: S311 - jitter, not a secret


@dataclass(frozen=True, slots=True)
class Retry:
    """How patiently one call is repeated before it fails as `StorageBusyError`.

    The pause before try n is drawn evenly from 0 to `first * 2**n`, at most `longest` ("full jitter", AWS
    Architecture Blog 2015), so that the writers of one burst spread out.
    """

    tries: int = 6
    """Times one call is made, the first included."""
    first: float = 0.2
    """Upper bound of the first pause, seconds."""
    longest: float = 10.0
    """Upper bound of any pause, seconds."""
    sleep: Callable[[float], None] = time.sleep
    """Waits so many seconds."""
    draw: Callable[[float], float] = _even_draw
    """Draws from 0 to a bound."""

    def pause(self, attempt: int) -> None:
        """Wait before try `attempt + 1`."""
        self.sleep(self.draw(min(self.longest, self.first * 2**attempt)))

    def inside_obstore(self) -> RetryConfig:
        """Return the retries that obstore does itself, on 429, 5xx and dropped connections."""
        backoff: BackoffConfig = {
            "init_backoff": timedelta(seconds=self.first / 2),
            "max_backoff": timedelta(seconds=self.longest),
        }
        return {"max_retries": self.tries - 1, "backoff": backoff, "retry_timeout": timedelta(minutes=2)}


DEFAULT_RETRY = Retry()


def open_store(
    uri: str,
    storage: Storage,
    *,
    name: str = "output.uri",
    create: bool = False,
    retry: Retry = DEFAULT_RETRY,
) -> ObjectStore:
    """Return an obstore store whose keys are relative to `uri`.

    Credentials come from the environment, under the names each cloud's tools use (`AWS_ACCESS_KEY_ID`,
    `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_KEY` ...). Nothing is sent yet.

    Args:
        uri: A local path, `file://`, `s3://bucket/prefix`, `gs://`, `abfs://container@account.../prefix`.
        storage: Endpoint, region, anonymity.
        name: The field of the job that holds `uri`, for error messages: `output.uri` or `input.uri`.
        create: Make a local folder that is not there.
        retry: How patiently requests are repeated.

    Raises:
        InputError, OutputError: by `name`, when the URI or its storage options are of no use.
        FileNotFoundError: a local folder that is not there and is not to be made.
    """
    with reporting(name, uri):
        if not is_remote(uri):
            folder = local_path(uri)
            if create:
                folder.mkdir(parents=True, exist_ok=True)
            elif not folder.exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
            return LocalStore(folder)
        return _open_remote(uri, storage, name, retry)


def _open_remote(uri: str, storage: Storage, name: str, retry: Retry) -> ObjectStore:
    parts = urlsplit(uri)
    _refuse_unfit_options(parts.scheme, storage, name)
    options = _options(storage, retry)
    prefix = unquote(parts.path).strip("/") or None
    if parts.scheme in S3_SCHEMES:
        if not storage.anonymous:
            _refuse_blanks(uri, name)
        if storage.region is not None:
            options["region"] = storage.region
        return S3Store(parts.netloc, prefix=prefix, **options)
    if parts.scheme in GCS_SCHEMES:
        return GCSStore(parts.netloc, prefix=prefix, **options)
    if parts.scheme in AZURE_SCHEMES:
        return AzureStore.from_url(uri, **options)
    raise _error(name).of(name, uri, f"the address must be {ALLOWED}")


def _options(storage: Storage, retry: Retry) -> dict[str, Any]:
    # A part is sent in one request, and a big input is one answer: only a stalled transfer may time out.
    client: ClientConfig = {"timeout": "24h", "read_timeout": "120s", "connect_timeout": "10s"}
    if storage.allow_http:
        client["allow_http"] = True
    options: dict[str, Any] = {"client_options": client, "retry_config": retry.inside_obstore()}
    if storage.anonymous:
        options["skip_signature"] = True
    if storage.endpoint is not None:
        options["endpoint"] = storage.endpoint
    return options


def _refuse_unfit_options(scheme: str, storage: Storage, name: str) -> None:
    section = f"{name.rpartition('.')[0]}.storage"
    endpoint = storage.endpoint
    if storage.region is not None and scheme not in S3_SCHEMES:
        raise _error(name).of(f"{section}.region", storage.region, "allowed with s3:// only")
    if storage.region is not None and _BLANK.search(storage.region):
        raise _error(name).of(f"{section}.region", storage.region, "allowed without spaces and line ends only")
    if endpoint is not None and scheme in GCS_SCHEMES:
        raise _error(name).of(f"{section}.endpoint", endpoint, "allowed with s3:// and abfs:// only")
    if endpoint is not None and endpoint.startswith("http://") and not storage.allow_http:
        raise _error(name).of(f"{section}.endpoint", endpoint, f"use https://, or set {section}.allowHttp")


def _refuse_blanks(uri: str, name: str) -> None:
    for variable in S3_VARIABLES:
        if _BLANK.search(os.environ.get(variable, "")):
            rule = "in the environment must hold neither spaces nor line ends (`echo` writes a line end)"
            raise _error(name).of(name, uri, f"{variable} {rule}")


def local_path(uri: str) -> Path:
    """Return the absolute path that a local URI or plain path names."""
    path = unquote(uri.removeprefix("file:")) if uri.startswith("file:") else uri
    if uri.startswith("file://"):
        path = "/" + path.lstrip("/")
    return Path(path).absolute()


@contextmanager
def reporting(name: str, uri: str, *, key: str = "") -> Iterator[None]:
    """Turn what obstore and the operating system raise into errors that name the field and its value.

    `FileNotFoundError` passes through: whether a missing object is an error is the caller's to say.

    Raises:
        InputError, OutputError: the user must act (permission, full disk, no such bucket, bad address);
            which one follows from `name`.
        StorageBusyError: the same call can succeed later.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise translate(error, name, uri, key=key) from error


def translate(error: Exception, name: str, uri: str, *, key: str = "") -> LLMBatchError:
    """Return the llmbatch error for one that obstore or the operating system raised."""
    what = _what_happened(error)
    place = f" (at {key})" if key else ""
    if _is_transient(error):
        return StorageBusyError(f"{name}: {uri!r}: {what}{place}; retries are used up, try again later")
    return _error(name).of(name, uri, f"{what}{place}; {_advice(error, name)}")


def _error(name: str) -> type[InputError | OutputError]:
    return InputError if name.startswith("input") else OutputError


def _what_happened(error: Exception) -> str:
    if (number := _errno(error)) is not None:
        return os.strerror(number)
    # Only the first line: the rest is a dump. A query string can hold a signature.
    return _QUERY.sub("", str(error).strip().partition("\n")[0])[:500]


def _errno(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _OS_ERROR.search(str(error))
    # Network failures carry an errno too; theirs say more in words.
    return int(found[1]) if found and "LocalFileSystem" in str(error) else None


def _status(error: Exception) -> int | None:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _is_transient(error: Exception) -> bool:
    if isinstance(error, exceptions.AlreadyExistsError):
        return True
    if not isinstance(error, exceptions.GenericError) or _errno(error) is not None:
        return False
    status = _status(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    return "HTTP error" in str(error) or "error sending request" in str(error)


_ERRNO_ADVICE = {
    errno.ENOSPC: "free space there, or choose another place; what is committed stays",
    errno.EDQUOT: "raise the quota, or choose another place; what is committed stays",
    errno.EFBIG: "raise the file size limit (ulimit -f); what is committed stays",
    errno.ENOTDIR: "every part of the path above the last must be a folder",
    errno.EEXIST: "the path must be a folder",
    errno.EPERM: "the file system must allow this user hard links",
    errno.ENOTSUP: "the file system must support hard links",
    errno.EROFS: "the file system must be mounted writable",
}


def _advice(error: Exception, name: str) -> str:
    number = _errno(error)
    if number is not None:
        fallback = "the path must be a folder this user may read and write"
        return _ERRNO_ADVICE.get(number, fallback)
    if isinstance(error, exceptions.PermissionDeniedError):
        action = "list and read" if name.startswith("input") else "list, read and write"
        return f"the credentials in the environment must be allowed to {action} here"
    if isinstance(error, exceptions.UnauthenticatedError):
        return "set valid credentials in the environment, or storage.anonymous for a public bucket"
    if _status(error) in (301, 307, 400) or "configured region" in str(error):
        return "storage.endpoint and storage.region must be the bucket's own"
    if isinstance(error, exceptions.NotSupportedError):
        return f"the address must be {ALLOWED}, and an output must support conditional writes"
    return f"the address must be {ALLOWED}, and its storage options and credentials complete"


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a listing."""

    key: str
    """Relative to the folder."""
    size: int
    """Bytes."""
    modified: datetime
    """When it was written, in UTC."""


@dataclass(slots=True)
class Folder:
    """A place of the job (`output.uri`) with the operations the ledger needs, and its errors.

    Pickles as its address: the receiving process opens it anew, with its own credentials.
    """

    uri: str
    """As the user wrote it."""
    storage: Storage = field(default_factory=Storage)
    """How to reach it."""
    name: str = "output.uri"
    """The field of the job that holds `uri`."""
    create: bool = True
    """Make a local folder that is not there."""
    retry: Retry = DEFAULT_RETRY
    """How patiently requests are repeated."""
    _store: Any = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Folder, (self.uri, self.storage, self.name, self.create, self.retry)

    @property
    def store(self) -> Any:
        """The obstore store, opened at first use."""
        if self._store is None:
            self._store = open_store(self.uri, self.storage, name=self.name, create=self.create, retry=self.retry)
        return self._store

    def put(self, key: str, data: bytes) -> None:
        """Write an object that nobody else writes, repeating what came to no clear end.

        Raises:
            OutputError: the user must act.
            StorageBusyError: the store did not take it within the retries.
        """
        for attempt in range(self.retry.tries):
            try:
                self.store.put(key, data)
            except FileNotFoundError as error:
                raise self._no_such_place() from error
            except (exceptions.BaseError, OSError) as error:
                self._pause_or_raise(error, key, attempt)
            else:
                return

    def create_or_read(self, key: str, data: bytes) -> bytes:
        """Create an object unless it exists, and return what stands there: atomic, any number of writers.

        The caller won if it gets back its own `data`, which must name the caller for that to mean something.

        Raises:
            OutputError: the user must act.
            StorageBusyError: the outcome stayed unknown through all retries. The object may exist.
        """
        for attempt in range(self.retry.tries):
            try:
                self.store.put(key, data, mode="create", use_multipart=False)
            except exceptions.AlreadyExistsError as error:
                stored = self.read(key)
                if stored is not None:
                    return stored
                # 409: another create was under way, and it failed or is not visible yet.
                self._pause_or_raise(error, key, attempt)
            except FileNotFoundError as error:
                raise self._no_such_place() from error
            except (exceptions.BaseError, OSError) as error:
                self._pause_or_raise(error, key, attempt)
            else:
                return data
        raise AssertionError("the last try returns or raises")

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create an object unless it exists; tell whether what stands there now is `data`."""
        return self.create_or_read(key, data) == data

    def check_create_is_atomic(self, key: str, data: bytes) -> None:
        """Check that the store refuses to create an object again, with one that exists and its own bytes.

        A server that ignores `If-None-Match` would let two attempts win the same shard.

        Raises:
            OutputError: the store did create it again.
            StorageBusyError: the store did not answer within the retries.
        """
        for attempt in range(self.retry.tries):
            try:
                self.store.put(key, data, mode="create", use_multipart=False)
            except exceptions.AlreadyExistsError:
                return
            except exceptions.BaseError as error:
                self._pause_or_raise(error, key, attempt)
            else:
                raise _error(self.name).of(
                    self.name,
                    self.uri,
                    "the store must refuse to create an object twice (S3: If-None-Match on PutObject), and "
                    f"it created {key} again: use a store or server version that does",
                )

    def read(self, key: str) -> bytes | None:
        """Return an object's bytes, None when there is none."""
        try:
            with reporting(self.name, self.uri, key=key):
                if isinstance(self.store, LocalStore):
                    # Three times as fast as through obstore, for the 10^5 small commits of a resume.
                    return (local_path(self.uri) / key).read_bytes()
                return bytes(self.store.get(key).bytes())
        except FileNotFoundError:
            return None

    def size(self, key: str) -> int | None:
        """Return an object's size in bytes, None when there is none."""
        try:
            with reporting(self.name, self.uri, key=key):
                return int(self.store.head(key)["size"])
        except FileNotFoundError:
            return None

    def entries(self, prefix: str) -> Iterator[Entry]:
        """List the objects below `prefix`, 1000 a request, in the store's order (S3: by key)."""
        with reporting(self.name, self.uri, key=prefix):
            for chunk in self.store.list(prefix, chunk_size=LIST_CHUNK):
                for meta in chunk:
                    yield Entry(meta["path"], meta["size"], meta["last_modified"])

    def cut_short(self, prefix: str) -> Iterator[Entry]:
        """List the writes below `prefix` that a kill cut short: `<name>#<number>` files of a local folder.

        Object stores show no such thing. These files are in no listing of `entries`.
        """
        if not isinstance(self.store, LocalStore):
            return
        root = local_path(self.uri)
        with reporting(self.name, self.uri, key=prefix):
            for path in (root / prefix).rglob("*#*"):
                if not _STAGED.search(path.name):
                    continue
                # Its writer may be alive, and have just moved it into place.
                with suppress(FileNotFoundError):
                    stat = path.stat()
                    modified = datetime.fromtimestamp(stat.st_mtime, UTC)
                    yield Entry(path.relative_to(root).as_posix(), stat.st_size, modified)

    def delete(self, keys: list[str]) -> None:
        """Delete objects; one that is gone already is no error."""
        with reporting(self.name, self.uri):
            if isinstance(self.store, LocalStore):
                # obstore refuses the names of writes that were cut short.
                for key in keys:
                    (local_path(self.uri) / key).unlink(missing_ok=True)
                return
            try:
                self.store.delete(keys)
            except FileNotFoundError:
                for key in keys:
                    self._delete_one(key)

    def _delete_one(self, key: str) -> None:
        try:
            self.store.delete(key)
        except FileNotFoundError:
            return

    def _pause_or_raise(self, error: Exception, key: str, attempt: int) -> None:
        if not _is_transient(error) or attempt + 1 >= self.retry.tries:
            raise translate(error, self.name, self.uri, key=key) from error
        self.retry.pause(attempt)

    def _no_such_place(self) -> LLMBatchError:
        return _error(self.name).of(self.name, self.uri, "the bucket or folder must exist and be writable")
