"""Reading one object in pieces, and making sure that it is the version the manifest names."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from obstore import exceptions

from llmbatch.api.job import Input, Storage, is_remote
from llmbatch.errors import InputError
from llmbatch.runtime.shards import InputFile
from llmbatch.runtime.storage import open_store, reporting

_MAGIC = re.compile(r"[*?\[{]")
FIRST_READ = 256 * 2**10
"""Bytes of the first request after a jump: little is lost when the next jump is near."""
LARGEST_READ = 4 * 2**20
"""Bytes of a request in a long run: 20 ms of latency are then a tenth of the time at 200 MB/s."""


@dataclass(frozen=True, slots=True)
class Place:
    """An input URI in its two parts."""

    base: str
    """The folder above the first wildcard: what paths of input files are relative to."""
    pattern: str
    """The rest, a glob, or the name of one file."""

    @property
    def is_glob(self) -> bool:
        """Whether the pattern has a wildcard."""
        return _MAGIC.search(self.pattern) is not None


def locate(uri: str) -> Place:
    """Split an input URI into the folder above its first wildcard and the rest.

    Raises:
        InputError: the URI names no file.
    """
    magic = _MAGIC.search(uri)
    literal = uri[: magic.start()] if magic else uri
    cut = literal.rfind("/") + 1
    base, pattern = uri[:cut], uri[cut:]
    if not pattern or (is_remote(uri) and uri.count("/", 0, cut) < 3):
        raise not_a_file(uri)
    if is_remote(uri) or uri.startswith("file:"):
        pattern = unquote(pattern)
    return Place(base or ".", pattern)


def not_a_file(uri: str) -> InputError:
    """Return the error for an input URI that names nothing."""
    return InputError.of("input.uri", uri, "there is no such file; it must be a file or a glob such as folder/*.jsonl")


@lru_cache(maxsize=16)
def _store(base: str, storage: Storage) -> Any:
    return open_store(base, storage, name="input.uri")


@contextmanager
def _reading(file: InputFile) -> Iterator[None]:
    try:
        with reporting("input.uri", file.uri):
            yield
    except FileNotFoundError as error:
        raise InputError.of("input.uri", file.uri, "the file is gone since the job began: put it back") from error


class ObjectFile(io.RawIOBase):
    """A file over range requests.

    Each read is a request of its own, so that a reader may pause for as long as the pipeline needs: an open
    response would time out meanwhile. Every request names the etag, so that rows of two versions never mix.
    """

    def __init__(self, file: InputFile, source: Input) -> None:
        super().__init__()
        self.file = file
        self.bytes_read = 0
        """Bytes requested and received so far."""
        self._store = _store(locate(source.uri).base, source.storage)
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the offset of the next read, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the offset of the next read; costs nothing."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.file.size}[whence]
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, all that are left when negative, none at the end.

        Raises:
            InputError: the file changed or went away since the job began, or may not be read.
            StorageBusyError: the store answers no more, retries included.
        """
        left = max(0, self.file.size - self._at)
        count = left if size < 0 else min(size, left)
        if count == 0:
            return b""
        data = self._get(self._at, self._at + count)
        if len(data) != count:
            raise self._changed()
        self._at += count
        self.bytes_read += count
        return data

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer and return how many bytes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _get(self, start: int, stop: int) -> bytes:
        options: dict[str, Any] = {"range": (start, stop)}
        if self.file.etag is not None:
            options["if_match"] = self.file.etag
        with _reading(self.file):
            try:
                return bytes(self._store.get(self.file.path, options=options).bytes())
            except exceptions.PreconditionError as error:
                raise self._changed() from error

    def _changed(self) -> InputError:
        return InputError.of(
            "input.uri",
            self.file.uri,
            "the file changed since the job began: restore it, or run a new job into another output.uri",
        )
