"""Reading job files: YAML or JSON, one or several documents, every problem named by field and value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from llmbatch.api.base import KIND
from llmbatch.api.job import LLMBatchJob
from llmbatch.errors import SpecError

_LONGEST_VALUE = 80


class _Loader(yaml.SafeLoader):
    """YAML as kubectl reads it: no key twice in a mapping, and YAML 1.2's numbers; PyYAML takes `1e-3` for a text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a repeated key, of which PyYAML would take the last."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a job file."""

    file: str
    """The file."""
    field: str
    """Path of the field, as the user writes it."""
    message: str
    """What is wrong and what is allowed."""

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: {self.message}"


def read_jobs(path: Path) -> Iterator[LLMBatchJob | list[Problem]]:
    """Yield each job of a file, or what is wrong with it.

    Documents of other kinds are passed over, as a folder of manifests has them.

    Raises:
        SpecError: the file cannot be read, is no YAML, or holds no job.
    """
    found = False
    for document in _documents(path):
        if not isinstance(document, dict) or document.get("kind", KIND) != KIND:
            continue
        found = True
        try:
            yield LLMBatchJob.model_validate(document)
        except ValidationError as error:
            yield problems(str(path), error)
    if not found:
        raise SpecError.of("file", str(path), f"must hold a document of kind {KIND}")


def read_job(path: Path, output: str | None = None) -> LLMBatchJob:
    """Return the one job of a file, with another `output.uri` where one is given.

    Raises:
        SpecError: the file holds no valid job, or several.
    """
    jobs = list(read_jobs(path))
    if len(jobs) != 1:
        raise SpecError.of("file", str(path), f"must hold one job, it holds {len(jobs)}")
    [job] = jobs
    if isinstance(job, list):
        raise SpecError("\n".join(str(problem) for problem in job))
    return job if output is None else job.with_output(output)


def _documents(path: Path) -> list[Any]:
    try:
        return list(yaml.load_all(path.read_text(encoding="utf-8"), _Loader))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError.of("file", str(path), f"must be a readable text file: {error}") from error
    except yaml.YAMLError as error:
        raise SpecError.of("file", str(path), f"must be YAML or JSON: {error}") from error


def problems(file: str, error: ValidationError) -> list[Problem]:
    """Return what pydantic says is wrong with the job of a file."""
    return [_problem(file, details) for details in error.errors()]


def _problem(file: str, details: Any) -> Problem:
    field = ""
    for part in details["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}"
    unknown = details["type"] == "extra_forbidden"
    message = "no such field" if unknown else details["msg"].removeprefix("Value error, ")
    value = details["input"]
    if details["type"] != "missing" and not isinstance(value, dict | list):
        message = f"{str(value)[:_LONGEST_VALUE]!r}: {message}"
    return Problem(file, field.lstrip(".") or "document", message)
