"""What goes wrong is told apart, and says what to try."""

from __future__ import annotations

import json
import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from conftest import DEADLINE_S, Lab
from fetchml import (
    ApiError,
    Conflict,
    ConnectionFailed,
    FetchML,
    Forbidden,
    NotFound,
    RateLimited,
    Unauthorized,
    UnexpectedAnswer,
    ValidationError,
)
from fetchml._errors import BY_CODE


def test_every_problem_of_a_request_is_told(client: FetchML) -> None:
    with pytest.raises(ValidationError) as refused:
        client.submit("true", gpu=-1, priority=99, cpus=2)  # type: ignore[call-arg]
    error = refused.value
    assert (error.status, error.code, error.retryable) == (422, "VALIDATION_ERROR", False)
    assert {problem.field for problem in error.details} == {"gpu", "priority", "cpus"}
    assert all(problem.problem in str(error) for problem in error.details)
    assert error.trace_id in str(error)


def test_refusals_have_classes(lab: Lab, client: FetchML) -> None:
    with pytest.raises(NotFound) as missing:
        client.task("0193e4a1-77c2-7000-8000-5c1fd1b0a001")
    assert missing.value.code == "NOT_FOUND"
    with pytest.raises(NotFound):
        client.task("../../health")
    with FetchML(lab.url, "fml_abcdefghijkl_" + "x" * 43) as stranger:
        with pytest.raises(Unauthorized) as unknown:
            stranger.queue()
    assert unknown.value.hint is not None
    assert f"hint: {unknown.value.hint}" in "".join(traceback.format_exception(unknown.value))
    assert "xxx" not in "".join(traceback.format_exception(unknown.value))
    key = json.loads(lab.fetchml("keys", "create", "--role", "worker", "--user", "lab", "--json"))["key"]
    with FetchML(lab.url, key) as worker, pytest.raises(Forbidden):
        worker.submit("true")
    task = client.wait(client.submit("true"))
    with pytest.raises(Conflict):
        client.set_priority(task, 3)


def test_the_classes_are_the_codes_of_the_document() -> None:
    document = json.loads((Path(__file__).resolve().parents[3] / "api" / "openapi.json").read_text())
    assert set(BY_CODE) == set(document["components"]["schemas"]["ErrorCode"]["enum"])


def test_a_server_that_is_not_there(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with FetchML(url, lab.key) as nobody, pytest.raises(ConnectionFailed, match=url) as failed:
        nobody.queue()
    assert "fetchml up" in (failed.value.hint or "")


Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def answering(answers: list[Answer]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers in turn, which FetchML's own gives only in bad times."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append(" ".join(filter(None, (self.command, self.headers["last-event-id"], self.headers["idempotency-key"]))))
            status, headers, body = answers[min(len(seen), len(answers)) - 1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def refusal(code: str, retryable: bool = True) -> bytes:
    return json.dumps({"error": "e", "code": code, "trace_id": "t", "retryable": retryable}).encode()


QUEUE = json.dumps({"completed": 1, "failed": 2, "queued": 3, "running": 4, "workers": 5, "new": {}}).encode()
KEY = "fml_abcdefghijkl_secret"


def test_reading_is_repeated_and_unknown_fields_are_dropped() -> None:
    passing: Answer = (503, {"retry-after": "0"}, refusal("SERVICE_UNAVAILABLE"))
    with answering([passing, passing, (200, {}, QUEUE)]) as (url, seen), FetchML(url, KEY) as client:
        assert client.queue().queued == 3
    assert seen == ["GET"] * 3


def test_what_is_not_known_again_is_repeated_only_when_nothing_was_done() -> None:
    passing: Answer = (503, {"retry-after": "0"}, refusal("SERVICE_UNAVAILABLE"))
    with answering([passing]) as (url, seen), FetchML(url, KEY) as client, pytest.raises(ApiError):
        client.rerun("t")
    assert seen == ["POST"]
    limited: Answer = (429, {"retry-after": "0"}, refusal("RATE_LIMITED"))
    with answering([limited, passing]) as (url, seen), FetchML(url, KEY) as client, pytest.raises(ApiError):
        client.rerun("t")
    assert seen == ["POST"] * 2


def test_submitting_is_repeated_with_the_same_key() -> None:
    passing: Answer = (503, {"retry-after": "0"}, refusal("SERVICE_UNAVAILABLE"))
    refused: Answer = (422, {}, refusal("VALIDATION_ERROR", retryable=False))
    with answering([passing, passing, refused]) as (url, seen), FetchML(url, KEY) as client:
        for _ in range(2):
            with pytest.raises(ValidationError):
                client.submit("true")
    assert len(seen) == 4 and len(set(seen[:3])) == 1 and len(set(seen)) == 2


def test_a_log_is_followed_through_a_broken_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetchml._limits.RETRY_DELAY_S", 0.0)
    first: Answer = (200, {}, b'id: a.0.2\ndata: {"text":"on"}\n\nid: lost\nda')
    away: Answer = (503, {}, refusal("SERVICE_UNAVAILABLE"))
    rest: Answer = (200, {}, b'id: a.0.3\ndata: {"text":"e"}\n\nevent: end\ndata: {}\n\n')
    with answering([first, away, rest]) as (url, seen), FetchML(url, KEY) as client:
        assert list(client.follow("t")) == ["on", "e"]
    assert seen == ["GET", "GET a.0.2", "GET a.0.2"]


def test_waiting_lives_through_an_outage(client: FetchML, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetchml._limits.RETRIES_MAX", 0)
    task = client.wait(client.submit("true"), timeout_s=DEADLINE_S)
    shown = client._connection.send("GET", f"/v1/tasks/{task.id}")
    running: Answer = (200, {}, shown.text.replace('"completed"', '"running"').encode())
    away: Answer = (503, {}, refusal("SERVICE_UNAVAILABLE"))
    with answering([running, away, away, (200, {}, shown.content)]) as (url, seen), FetchML(url, KEY) as other:
        assert other.wait(task) == task
    assert len(seen) == 4
    with answering([away]) as (url, _), FetchML(url, KEY) as other, pytest.raises(ApiError):
        other.wait(task)


def test_a_long_wait_is_left_to_the_caller() -> None:
    limited: Answer = (429, {"retry-after": "3600"}, refusal("RATE_LIMITED"))
    with answering([limited]) as (url, seen), FetchML(url, KEY) as client, pytest.raises(RateLimited) as refused:
        client.queue()
    assert (seen, refused.value.retry_after_s) == (["GET"], 3600.0)


@pytest.mark.parametrize("answer", [(200, {}, b"<html>"), (404, {}, b"nginx"), (200, {}, b"[]"), (302, {}, b"")])
def test_what_is_no_fetchml_server(answer: Answer) -> None:
    with answering([answer]) as (url, _), FetchML(url, KEY) as client, pytest.raises(UnexpectedAnswer):
        client.queue()
