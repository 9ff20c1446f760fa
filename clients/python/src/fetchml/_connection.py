"""The connection to one server: where requests are sent, repeated, and their failures told apart."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import httpx

from . import _limits as limits
from ._decode import decode
from ._errors import (
    ApiError,
    ConfigurationError,
    ConnectionFailed,
    FetchMLError,
    RateLimited,
    UnexpectedAnswer,
    refusal,
)
from ._settings import Settings

T = TypeVar("T")
Query = Mapping[str, str | int | float | bool | None]
Headers = Mapping[str, str]


class Connection:
    """Sends requests with the key and gives back answers of success only."""

    def __init__(self, settings: Settings, timeout_s: float) -> None:
        self.url = settings.url
        address = _checked(settings.url)
        self._http = httpx.Client(
            base_url=settings.url,
            headers={"x-api-key": settings.api_key, "user-agent": "fetchml-python/0.1.0"},
            timeout=httpx.Timeout(timeout_s, connect=limits.CONNECT_TIMEOUT_S),
            # A proxy from the environment cannot reach this machine's own loopback.
            trust_env=not _is_loopback(address),
            # A redirect could carry the key to another host.
            follow_redirects=False,
        )

    def close(self) -> None:
        """Closes what is open."""
        self._http.close()

    def get(self, kind: type[T], path: str, query: Query | None = None) -> T:
        """Reads a resource."""
        return self._read(kind, self.send("GET", path, query=query))

    def post(
        self,
        kind: type[T],
        path: str,
        body: Any,
        query: Query | None = None,
        *,
        headers: Headers | None = None,
        repeat: bool = False,
    ) -> T:
        """Sends `body` as JSON. Only a server's 429 is answered by sending it again, unless `repeat`."""
        return self._read(kind, self.send("POST", path, query=query, headers=headers, body=body, repeat=repeat))

    def patch(self, kind: type[T], path: str, body: Any, query: Query | None = None) -> T:
        """Changes a resource: the same twice is the same as once."""
        return self._read(kind, self.send("PATCH", path, query=query, body=body))

    def delete(self, path: str, query: Query | None = None) -> None:
        """Deletes a resource."""
        self.send("DELETE", path, query=query)

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        headers: Headers | None = None,
        body: Any = None,
        repeat: bool = True,
    ) -> httpx.Response:
        """Sends a request, again where that may help, until it succeeds or fails for good."""
        request = self._http.build_request(method, path, params=_given(query), headers=headers, json=body)
        tries = 0
        while True:
            try:
                with self._answer(request, stream=False) as response:
                    return response
            except FetchMLError as error:
                delay = retry_delay_s(error, tries)
                if delay is None or tries >= limits.RETRIES_MAX or not (repeat or isinstance(error, RateLimited)):
                    raise
            time.sleep(delay)
            tries += 1

    @contextlib.contextmanager
    def stream(
        self, path: str, *, query: Query | None = None, headers: Headers | None = None
    ) -> Iterator[httpx.Response]:
        """An answer that is read while it comes. Not repeated."""
        timeout = httpx.Timeout(limits.STREAM_IDLE_TIMEOUT_S, connect=limits.CONNECT_TIMEOUT_S)
        request = self._http.build_request("GET", path, params=_given(query), headers=headers, timeout=timeout)
        with self._answer(request, stream=True) as response:
            yield response

    @contextlib.contextmanager
    def _answer(self, request: httpx.Request, *, stream: bool) -> Iterator[httpx.Response]:
        try:
            response = self._http.send(request, stream=stream)
            try:
                if not response.is_success:
                    response.read()
                    raise refusal(response)
                yield response
            finally:
                response.close()
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            hint = f"start a server here with `fetchml up`, or set FETCHML_URL if it is not at {self.url}"
            raise ConnectionFailed(f"cannot reach the FetchML server at {self.url}: {reason}", hint=hint) from error

    def _read(self, kind: type[T], response: httpx.Response) -> T:
        try:
            return decode(kind, response.json())
        except (ValueError, KeyError, TypeError) as error:
            raise UnexpectedAnswer(f"not the promised JSON from {self.url}: {error}") from error


def retry_delay_s(error: FetchMLError, tries: int) -> float | None:
    """How long to wait before the next try; none where it cannot help."""
    if isinstance(error, ConnectionFailed):
        # A server that is not there is reported at once: the caller knows better how long to hope.
        if isinstance(error.__cause__, httpx.ConnectError):
            return None
    elif not isinstance(error, ApiError) or not is_passing(error):
        return None
    elif error.retry_after_s is not None:
        return error.retry_after_s if error.retry_after_s <= limits.RETRY_AFTER_MAX_S else None
    return limits.RETRY_DELAY_S * 2.0**tries


def is_passing(error: FetchMLError) -> bool:
    """Whether the same call may succeed later, unchanged."""
    if isinstance(error, ApiError):
        return error.retryable or error.status in (429, 502, 503, 504)
    return isinstance(error, ConnectionFailed)


def _given(query: Query | None) -> dict[str, str | int | float | bool]:
    return {name: value for name, value in (query or {}).items() if value is not None}


def _checked(url: str) -> httpx.URL:
    hint = "an address looks like http://127.0.0.1:9101"
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        raise ConfigurationError("the server's address is not one", hint=hint) from None
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigurationError("the server's address must begin with http:// or https://", hint=hint)
    if address.userinfo or address.query or address.fragment:
        # Not shown: it may hold a password.
        raise ConfigurationError("the server's address must not hold a user, a query or a fragment", hint=hint)
    return address


def _is_loopback(address: httpx.URL) -> bool:
    if address.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False
