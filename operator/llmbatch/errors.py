"""Every error llmbatch raises on purpose. The class says what the caller does next.

LLMBatchError
|-- UserError            the user changes the job or its surroundings; a retry cannot succeed
|   |-- SpecError            the job document is invalid: field, value, what is allowed
|   |-- InputError           the input cannot be read as described
|   |-- DuplicateIdError     two input rows carry the same id
|   |-- OutputError          the output cannot be written
|   |-- OutputConflictError  the output belongs to another job spec
|   |-- CapacityError        a stage asks for resources that do not exist here
|   |-- ForbiddenError       the API server does not allow a request
|   `-- RejectedError        the API server does not accept an object
|-- JobFailedError       the job ran and failed by its own policy; committed rows stay
|   `-- ErrorRateError       more rows failed than failurePolicy.maxErrorRate allows
|-- TransientError       retry with backoff: the same call can succeed later
|   |-- StorageBusyError     the object store throttled or conflicted beyond the retries of one call
|   |-- RayStartError        Ray did not come up on this machine
|   |-- EndpointError        a stage's HTTP endpoint does not answer at all
|   |-- ApiServerError       the API server did not answer, or answered that it cannot now
|   |-- StaleError           an object changed since it was read: read again, decide again
|   `-- HeadError            the Ray head did not answer, or answered that it cannot now
|       `-- HeadTokenError       the head does not take the token: read it again
`-- InternalError        a contract inside llmbatch broke; stop, keep what is committed, report it
    |-- ShardSplitError      a block reached the commit without all rows of its shard
    `-- RayInternalsError    Ray's private names are not what this version was tested with
"""

from __future__ import annotations

from typing import Self


class LLMBatchError(Exception):
    """Base of every error llmbatch raises on purpose."""


class UserError(LLMBatchError):
    """The user changes something; retrying as it is cannot succeed."""

    @classmethod
    def of(cls, field: str, value: object, allowed: str) -> Self:
        """Build the message every bad input gets: the field, its value, and what is allowed."""
        return cls(f"{field}: {value!r}: {allowed}")


class SpecError(UserError):
    """The job document is invalid. Fix the named field."""


class InputError(UserError):
    """The input cannot be read as the job describes it. Fix the input or the `input` section."""


class DuplicateIdError(InputError):
    """Two input rows carry the same id. Make ids unique; the message names both places."""


class OutputError(UserError):
    """The output cannot be written. Fix its permissions, space or address; nothing committed is lost."""


class OutputConflictError(OutputError):
    """The output belongs to another job spec. Choose another `output.uri` or restore that spec."""


class CapacityError(UserError):
    """A stage asks for resources that cannot exist here. Change the stage or the capacity."""


class ForbiddenError(UserError):
    """The API server does not allow a request. Grant the right that the message names."""


class RejectedError(UserError):
    """The API server does not accept an object. Mend the field that the message names."""


class JobFailedError(LLMBatchError):
    """The job ran and ended as failed by its own policy. What is committed stays."""


class ErrorRateError(JobFailedError):
    """More rows failed than `failurePolicy.maxErrorRate` allows. Mend the cause and retry them, or allow more."""


class TransientError(LLMBatchError):
    """Retry with backoff: the same call can succeed later."""


class StorageBusyError(TransientError):
    """The object store throttled or conflicted longer than one call retries."""


class RayStartError(TransientError):
    """Ray did not come up on this machine. Try again, with more memory or less other work if it stays so."""


class EndpointError(TransientError):
    """A stage's HTTP endpoint does not answer at all. Check `endpoint.url`, or start the server and try again."""


class ApiServerError(TransientError):
    """The API server did not answer in time, or answered that it cannot now. Try again with backoff."""


class StaleError(TransientError):
    """An object changed since it was read, or is gone. Read it and decide again."""


class HeadError(TransientError):
    """The Ray head did not answer in time, or answered that it cannot now. Try again in the next pass."""


class HeadTokenError(HeadError):
    """The head does not take the token. Read the job's Secret again."""


class InternalError(LLMBatchError):
    """A contract inside llmbatch broke. Stop and report it; committed rows are safe."""


class ShardSplitError(InternalError):
    """A block reached the commit without all rows of its shard. Lower `shardRows`; report it."""


class RayInternalsError(InternalError):
    """Ray's private names differ from the version tested. Run with `allocation.policy: stock`."""
