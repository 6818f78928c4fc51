"""Which files the input is, and what their first rows look like."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from wcmatch import glob

from llmbatch.api.job import Input, is_remote
from llmbatch.errors import InputError
from llmbatch.runtime.readers.formats import records
from llmbatch.runtime.shards import InputFile, Split
from llmbatch.runtime.storage import local_path, open_store, reporting

_MAGIC = re.compile(r"[*?\[{]")
SAMPLE_ROWS = 100


def base_and_pattern(uri: str) -> tuple[str, str]:
    """Split an input URI into the folder its glob starts from and the pattern below that folder.

    >>> base_and_pattern("s3://corpus/docs/*/part-*.jsonl")
    ('s3://corpus/docs', '*/part-*.jsonl')
    """
    address = uri if is_remote(uri) else str(local_path(uri))
    scheme, separator, path = address.rpartition("://")
    magic = _MAGIC.search(path)
    head = path[: magic.start()] if magic else path
    cut = head.rfind("/")
    return f"{scheme}{separator}{path[:cut] or '/'}", path[cut + 1 :]


def list_files(source: Input) -> Iterator[InputFile]:
    """Yield the input's files in order of their paths, as small tuples: 10^5 files take some 20 MB.

    Raises:
        InputError: nothing matches, or the place cannot be listed.
    """
    base, pattern = base_and_pattern(source.uri)
    found: list[tuple[str, int, str | None]] = []
    try:
        with reporting("input.uri", source.uri):
            store = open_store(base, source.storage, name="input.uri")
            for chunk in store.list(chunk_size=1000):
                found += [
                    (meta["path"], meta["size"], meta.get("e_tag"))
                    for meta in chunk
                    if glob.globmatch(meta["path"], pattern, flags=glob.GLOBSTAR | glob.BRACE)
                ]
    except FileNotFoundError as error:
        raise InputError.of("input.uri", source.uri, "the folder does not exist") from error
    if not found:
        raise InputError.of(
            "input.uri", source.uri, "no file matches; it must name a file or a glob of files"
        )
    for index, (path, size, etag) in enumerate(sorted(found)):
        yield InputFile(index, path, f"{base.rstrip('/')}/{path}", size, etag)


def sample_fields(files: Sequence[InputFile], source: Input) -> frozenset[str]:
    """Return the fields seen in the first rows of the first file that has any.

    Raises:
        InputError: the file cannot be read as `input.format`.
    """
    for file in files:
        rows: Iterator[Any] = records(Split(file, 0, 0, None), source, columns=None)
        names = {name for record in islice(rows, SAMPLE_ROWS) for name in record.fields}
        if names:
            return frozenset(names)
    return frozenset()
