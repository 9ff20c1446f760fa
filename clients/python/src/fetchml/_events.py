"""Server-sent events: whole events out of bytes at any boundary, across broken connections."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from . import _limits as limits
from ._connection import Connection, Query, is_passing
from ._errors import ConnectionFailed, FetchMLError, UnexpectedAnswer


@dataclass(frozen=True)
class Event:
    """One event."""

    name: str
    """`event:`, empty when absent."""
    data: str
    """`data:` lines, joined by newlines."""
    id: str | None
    """The last `id:` so far."""


def parse(chunks: Iterable[bytes]) -> Iterator[Event]:
    """The events in a stream of bytes."""
    name = ""
    data: list[str] = []
    last_id: str | None = None
    for line in _lines(chunks):
        if not line:
            if data:
                yield Event(name, "\n".join(data), last_id)
            name, data = "", []
            continue
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            name = value
        elif key == "data":
            data.append(value)
        elif key == "id":
            last_id = value


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    # Not `str.splitlines`: it breaks lines at characters that are text in JSON, such as U+2028.
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > limits.SSE_EVENT_BYTES_MAX:
            raise UnexpectedAnswer("the server sent an event that is too large")
        for line in lines:
            yield line.removesuffix(b"\r").decode(errors="replace")


def follow(connection: Connection, path: str, query: Query) -> Iterator[Event]:
    """The events of a stream, taken up again where it broke off.

    Ends only when its reader leaves, or with an exception when the server refuses or stays away.
    """
    last_id: str | None = None
    reached = False
    delay_s = limits.RETRY_DELAY_S
    away_since: float | None = None
    while True:
        headers = {"accept": "text/event-stream"} | ({"last-event-id": last_id} if last_id else {})
        try:
            with connection.stream(path, query=query, headers=headers) as response:
                reached = True
                for event in parse(response.iter_bytes()):
                    delay_s, away_since = limits.RETRY_DELAY_S, None
                    last_id = event.id or last_id
                    yield event
            raise ConnectionFailed(f"the server at {connection.url} closed the stream")
        except FetchMLError as error:
            away_since = away_since if away_since is not None else time.monotonic()
            # A server never reached is an error at once; one that was there may be restarting.
            if not (reached and is_passing(error) and time.monotonic() - away_since < limits.OUTAGE_MAX_S):
                raise
        time.sleep(delay_s)
        delay_s = min(delay_s * 2, limits.RECONNECT_DELAY_MAX_S)
