"""Capacity traces in files."""

from __future__ import annotations

from pathlib import Path

from llmbatch.core.capacity.trace import Trace, Victims
from llmbatch.core.capacity.trace_formats import parse_trace
from llmbatch.errors import InputError


def read_trace(path: Path, *, gpus_per_node: int = 1, seed: int = 0, victims: Victims = "random") -> Trace:
    """Read a capacity trace; `trace_formats` lists the formats.

    Raises:
        InputError: the file cannot be read, or is not a trace.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError.of("trace", str(path), f"a text file that can be read ({error})") from error
    return parse_trace(text, str(path), gpus_per_node=gpus_per_node, seed=seed, victims=victims)
