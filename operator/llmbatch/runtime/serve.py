"""One attempt on a Ray head: what the controller submits through Ray's Jobs API.

    python -m llmbatch.runtime.serve --run-spec /etc/llmbatch/runspec.json --attempt 1 --port 8200

Exit codes: 0 complete or paused, 1 failed by the job's policy, 2 the job or its input is of no use,
3 an internal error. The last line of the log is the final Progress, for a controller that came too late to the
endpoint.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from llmbatch import __version__
from llmbatch.api.progress import FINAL_LINE, Progress
from llmbatch.api.runspec import RunSpec
from llmbatch.errors import JobFailedError, LLMBatchError, SpecError, UserError
from llmbatch.runtime import driver
from llmbatch.runtime.control import Board, application, serving
from llmbatch.runtime.desired import Desired
from llmbatch.runtime.embedded import RunOptions

TOKEN_ENV = "LLMBATCH_TOKEN"  # noqa: S105 - the name of a variable
LINGER_SECONDS = 30.0
"""How long the endpoint stays after the end, for the controller to read it."""
COMPLETE, FAILED, INVALID, INTERNAL = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one attempt and return its exit code."""
    options = _parse(arguments)
    board, desired, stop = Board(), Desired(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    token = os.environ.get(TOKEN_ENV, "")
    if not token:
        sys.stderr.write(f"{TOKEN_ENV} is not set: the control endpoint needs a token\n")
        return INVALID
    # What ends before the first look at the job must be known for this attempt's as well.
    board.post(Progress(attempt=options.attempt or 1))
    with serving(application(token, desired, board), options.host, options.port):
        code = _attempt(options, board, desired, stop)
        board.end_was_read.wait(LINGER_SECONDS)
    sys.stdout.write(f"{FINAL_LINE}{board.latest().model_dump_json(by_alias=True)}\n")
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m llmbatch.runtime.serve", description="One attempt at a job.")
    parser.add_argument("--run-spec", type=Path, required=True, help="RunSpec document, JSON")
    parser.add_argument("--attempt", type=int, help="replaces the RunSpec's attempt")
    parser.add_argument("--address", default="auto", help="Ray cluster to join")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104 - the pod's own
    parser.add_argument("--port", type=int, default=8200, help="port of the control endpoint")
    return parser.parse_args(arguments)


def _attempt(options: argparse.Namespace, board: Board, desired: Desired, stop: threading.Event) -> int:
    try:
        run_spec = _read(options.run_spec)
        if options.attempt is not None:
            run_spec = run_spec.model_copy(update={"attempt": options.attempt})
        result = driver.run(
            run_spec,
            on_progress=board.post,
            stop=stop,
            desired=desired,
            options=RunOptions(address=options.address),
        )
    except LLMBatchError as error:
        board.post(_failed(board.latest(), error))
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return _exit_code(error)
    board.post(result.progress)
    return FAILED if result.state == "failed" else COMPLETE


def _read(path: Path) -> RunSpec:
    try:
        return RunSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SpecError(f"run spec {path}: {error}") from error
    except ValidationError as error:
        raise SpecError(f"run spec {path}: {error}{_if_newer(error)}") from error


def _if_newer(error: ValidationError) -> str:
    """Return what to do where a field is not known: the operator, which lets through what it knows, is newer."""
    if all(detail["type"] != "extra_forbidden" for detail in error.errors()):
        return ""
    return (
        f"\nThis image is llmbatch {__version__}, older than the operator: "
        "set spec.image to one of the operator's version, or leave the field out"
    )


def _failed(last: Progress, error: LLMBatchError) -> Progress:
    return last.model_copy(update={"state": "failed", "error": f"{type(error).__name__}: {error}"})


def _exit_code(error: LLMBatchError) -> int:
    if isinstance(error, UserError):
        return INVALID
    return FAILED if isinstance(error, JobFailedError) else INTERNAL


if __name__ == "__main__":
    sys.exit(main())
