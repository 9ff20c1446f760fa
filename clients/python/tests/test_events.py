"""Streams of events, cut anywhere."""

from __future__ import annotations

import pytest
from fetchml import UnexpectedAnswer
from fetchml._events import Event, parse

STREAM = 'id: a.0.3\r\ndata: {"text":"é\u2028"}\n\n: comment\n\nevent: end\ndata:x\ndata: y\n\ndata: cut'.encode()
EVENTS = [Event("", '{"text":"é\u2028"}', "a.0.3"), Event("end", "x\ny", "a.0.3")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_events_are_found_at_any_boundary(size: int) -> None:
    assert list(parse(STREAM[at : at + size] for at in range(0, len(STREAM), size))) == EVENTS


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetchml._limits.SSE_EVENT_BYTES_MAX", 10)
    with pytest.raises(UnexpectedAnswer):
        list(parse([b"data: ", b"0123456789"]))
