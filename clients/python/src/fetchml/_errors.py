"""What can go wrong in a call, as exceptions that say what happened and what to try."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from ._decode import decode
from .models import Problem, Task


class FetchMLError(Exception):
    """Everything that this client raises. `hint` says what to try, if anything is known to help."""

    hint: str | None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if hint is not None:
            self.add_note(f"hint: {hint}")


class ConfigurationError(FetchMLError):
    """No server or key is configured, or what is configured cannot be used."""


class ConnectionFailed(FetchMLError):
    """The server cannot be reached, or the connection broke before the answer was there."""


class UnexpectedAnswer(FetchMLError):
    """What answered does not speak FetchML's protocol."""


class WaitTimeout(FetchMLError, TimeoutError):
    """The task had not ended in the time given to `wait`; it goes on."""


class TaskFailed(FetchMLError):
    """The task that was waited for with `check=True` failed."""

    task: Task
    """The task as it ended; `task.failure` says why, for programs."""

    def __init__(self, task: Task) -> None:
        cause = f" ({task.failure.cause})" if task.failure else ""
        super().__init__(f"task {task.id} failed{cause}: {task.error or 'no reason is known'}")
        self.task = task


class ApiError(FetchMLError):
    """The server refused. Its subclasses are the codes of errors."""

    status: int
    """HTTP status."""
    code: str
    """What went wrong, for programs, such as `NOT_FOUND`."""
    error: str
    """What went wrong, for people."""
    details: list[Problem]
    """Every problem of the request: the field, and what would be right."""
    trace_id: str
    """Finds the request in the server's log."""
    retryable: bool
    """Whether the same request may succeed later, unchanged."""
    retry_after_s: float | None
    """Seconds that the server asks to wait before the next try."""

    def __init__(self, status: int, body: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.code = str(body["code"])
        self.error = str(body["error"])
        self.trace_id = str(body["trace_id"])
        self.details = decode(list[Problem], body.get("details", []))
        self.retryable = bool(body.get("retryable", False))
        self.retry_after_s = retry_after_s
        lines = [self.error]
        lines += [f"  {': '.join(filter(None, (at.field, at.problem)))}" for at in self.details]
        lines.append(f"  ({self.code}, status {status}, trace id {self.trace_id})")
        super().__init__("\n".join(lines), hint=body.get("hint"))


class BadRequest(ApiError):
    """400, 405, 413, 415, 416: the server cannot read the request."""


class Unauthorized(ApiError):
    """401: no key, or one that is not accepted."""


class Forbidden(ApiError):
    """403: the key's role does not allow this."""


class NotFound(ApiError):
    """404: nothing there, or nothing this key may see."""


class Conflict(ApiError):
    """409: the state of the resource forbids it."""


class ValidationError(ApiError):
    """422: readable, but against the schema or its meaning; `details` lists every problem."""


class RateLimited(ApiError):
    """429: too many requests."""


class InternalError(ApiError):
    """500: a fault of the server; its log says more under `trace_id`."""


class ServiceUnavailable(ApiError):
    """503: the server is overloaded or cannot store."""


BY_CODE: dict[str, type[ApiError]] = {
    "BAD_REQUEST": BadRequest,
    "UNAUTHORIZED": Unauthorized,
    "FORBIDDEN": Forbidden,
    "NOT_FOUND": NotFound,
    "CONFLICT": Conflict,
    "VALIDATION_ERROR": ValidationError,
    "RATE_LIMITED": RateLimited,
    "INTERNAL_ERROR": InternalError,
    "SERVICE_UNAVAILABLE": ServiceUnavailable,
}


def refusal(response: httpx.Response) -> FetchMLError:
    """The exception of an answer, read whole, whose status is not one of success."""
    try:
        body = response.json()
        kind = BY_CODE.get(body["code"], ApiError)
        return kind(response.status_code, body, _retry_after_s(response))
    except (ValueError, KeyError, TypeError):
        return UnexpectedAnswer(
            f"status {response.status_code} from {response.url.host} without FetchML's form of errors",
            hint="is this the address and port of a FetchML server?",
        )


def _retry_after_s(response: httpx.Response) -> float | None:
    try:
        return float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return None
