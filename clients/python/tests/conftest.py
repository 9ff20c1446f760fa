"""A server and a worker in one process, `fetchml up`, for all tests. `FETCHML_TEST_BINARY` names the program."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fetchml import FetchML, FetchMLError

#: Longest wait for anything: generous, because machines are shared.
DEADLINE_S = 120.0


@dataclass(frozen=True)
class Lab:
    """A running server and its surroundings."""

    url: str
    key: str
    home: Path
    binary: Path

    def fetchml(self, *arguments: str) -> str:
        """Runs a command that must succeed, and returns its stdout."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home)}
        command = [str(self.binary), *arguments]
        return subprocess.run(command, env=environment, check=True, text=True, stdout=subprocess.PIPE).stdout


@pytest.fixture(autouse=True)
def nothing_of_the_developer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Takes away what the environment says of other servers."""
    for name in list(os.environ):
        if name.startswith(("FETCHML_", "XDG_")) and name != "FETCHML_TEST_BINARY":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server with a worker of two slots."""
    binary = Path(os.environ["FETCHML_TEST_BINARY"])
    root = tmp_path_factory.mktemp("lab")
    home = root / "home"
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [str(binary), "up", "--listen", f"127.0.0.1:{port}", "--data-dir", str(root / "data")]
    command += ["--slots", "2", "--container-engine", "none"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "NO_COLOR": "1"}
    with (root / "up.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        key_file = root / "data" / "admin.key"
        eventually("a worker is there", lambda: ready(process, url, key_file), lambda: (root / "up.log").read_text())
        yield Lab(url, key_file.read_text().strip(), home, binary)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(DEADLINE_S)
        finally:
            process.kill()


def ready(process: subprocess.Popen[bytes], url: str, key_file: Path) -> bool:
    """Whether the server of `process` has a worker."""
    assert process.poll() is None, "the server ended"
    try:
        with FetchML(url, key_file=key_file) as client:
            return any(worker.status == "active" for worker in client.workers())
    except FetchMLError:
        return False


def eventually(what: str, condition: Callable[[], bool], more: Callable[[], str] = str) -> None:
    """Waits until `condition` holds."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE_S} s: {what}\n{more()}"
        time.sleep(0.02)


@pytest.fixture
def client(lab: Lab) -> Iterator[FetchML]:
    """A client of the lab's administrator."""
    with FetchML(lab.url, lab.key) as client:
        yield client
