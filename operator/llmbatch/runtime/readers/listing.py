"""Finding the input files that a URI or a glob names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from wcmatch import glob

from llmbatch.api.job import Input, is_remote
from llmbatch.errors import InputError
from llmbatch.runtime.readers.objects import Place, locate, not_a_file
from llmbatch.runtime.readers.shards import first_fields
from llmbatch.runtime.shards import InputFile, Split
from llmbatch.runtime.storage import local_path, open_store, reporting

FLAGS = glob.GLOBSTAR | glob.BRACE | glob.FORCEUNIX | glob.CASE
SAMPLE_ROWS = 100
SAMPLE_FILES = 16
_NOT_READ = re.compile(r"\.(bz2|xz|lzma|lz4|br|snappy|zip|7z|tar|tgz|Z)$", re.IGNORECASE)


def list_files(source: Input) -> list[InputFile]:
    """Return the input files, sorted by path; 1000 a request, and 0.5 kB of memory each.

    Raises:
        InputError: nothing matches, a match cannot be read, or the place may not be listed.
        StorageBusyError: the store answers no more, retries included.
    """
    place = locate(source.uri)
    if not is_remote(place.base) and not local_path(place.base).is_dir():
        raise not_a_file(source.uri)
    try:
        with reporting("input.uri", source.uri):
            store = open_store(place.base, source.storage, name="input.uri")
            found = sorted(_matches(store, place), key=lambda meta: str(meta[0]))
    except FileNotFoundError as error:
        raise not_a_file(source.uri) from error
    if not found:
        raise InputError.of("input.uri", source.uri, "a glob must match at least one file; this matches none")
    prefix = "" if place.base == "." else place.base
    files = [InputFile(index, path, f"{prefix}{path}", size, etag) for index, (path, size, etag) in enumerate(found)]
    _refuse_unreadable(files, source)
    return files


def sample_fields(files: Sequence[InputFile], source: Input) -> frozenset[str]:
    """Return the names of the fields that the first rows have, for checks before anything is created.

    The first file with a readable row decides; none in the first `SAMPLE_FILES` files means that the input is not
    what `input.format` says. An input without any row has no fields. Of Parquet only the ids are read.

    Raises:
        InputError: no row can be read, or a file cannot.
        DuplicateIdError: two of the first rows have the same id.
    """
    problem = ""
    for file in files[:SAMPLE_FILES]:
        names, first_problem = first_fields(Split(file, 0, 0, None), source, SAMPLE_ROWS)
        if names:
            return names
        problem = problem or first_problem
    if problem:
        raise InputError.of("input.format", source.format, f"no row at the beginning can be read as it; {problem}")
    return frozenset()


def _refuse_unreadable(files: list[InputFile], source: Input) -> None:
    if source.format == "parquet":
        refused, allowed = (
            re.compile(r"\.(gz|zst)$", re.IGNORECASE),
            "Parquet compresses inside: decompress the file",
        )
    else:
        refused, allowed = _NOT_READ, "text may be plain, gzip (.gz) or zstd (.zst)"
    for file in files:
        if refused.search(file.path):
            raise InputError.of("input.uri", file.uri, allowed)


def _matches(store: Any, place: Place) -> Iterator[tuple[str, int, str | None]]:
    found = _walk(store, "", place.pattern.split("/")) if place.is_glob else [store.head(place.pattern)]
    for meta in found:
        yield meta["path"], meta["size"], meta["e_tag"]


def _walk(store: Any, folder: str, segments: list[str]) -> Iterator[Any]:
    segment, *below = segments
    if "**" in segment or _spans_folders(segments):
        yield from _walk_all(store, folder, "/".join(segments))
        return
    level = store.list_with_delimiter(folder or None)
    if not below:
        yield from (meta for meta in level["objects"] if _match(_name(meta["path"]), segment))
        return
    for path in level["common_prefixes"]:
        if _match(_name(path), segment):
            yield from _walk(store, path, below)


def _spans_folders(segments: list[str]) -> bool:
    # A brace with a slash inside, {a/b,c}, was cut apart.
    return any(segment.count("{") != segment.count("}") for segment in segments)


def _walk_all(store: Any, folder: str, pattern: str) -> Iterator[Any]:
    for chunk in store.list(folder or None, chunk_size=1000):
        for meta in chunk:
            if _match(meta["path"].removeprefix(f"{folder}/" if folder else ""), pattern):
                yield meta


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _match(path: str, pattern: str) -> bool:
    return bool(glob.globmatch(path, pattern, flags=FLAGS))
