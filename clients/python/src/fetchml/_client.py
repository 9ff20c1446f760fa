"""`FetchML`: the operations of one server, as methods."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self, Unpack, cast
from urllib.parse import quote

from . import _events, _settings
from . import _limits as limits
from ._connection import Connection, is_passing
from ._errors import FetchMLError, TaskFailed, UnexpectedAnswer, WaitTimeout
from .models import (
    Artifact,
    ArtifactList,
    Experiment,
    ExperimentStatus,
    Explanation,
    Health,
    QueueStats,
    RunManifest,
    SchedulerStatus,
    Task,
    TaskFields,
    TaskList,
    TaskMetrics,
    TaskStatus,
    UsageReport,
    Worker,
)

TaskOrId = Task | str


class FetchML:
    """A client of one FetchML server.

    Without arguments it talks to the server that the `fetchml` command would talk to: the one of
    `FETCHML_URL` and `FETCHML_API_KEY`, or of the profile that `fetchml up` wrote. Use it as a context
    manager, or close it. It may be used by several threads.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        key_file: str | os.PathLike[str] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        settings = _settings.load(url, api_key, None if key_file is None else os.fspath(key_file))
        self._connection = Connection(settings, timeout_s)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._connection.url

    def close(self) -> None:
        """Closes the connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FetchML({self.url!r})"

    # Tasks

    def submit(
        self,
        command: str | Sequence[str] | None = None,
        /,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[TaskFields],
    ) -> Task:
        """Submits a task, exactly once.

        `command` (the field `args`) is words, or one text that is split by shell rules. Without `job_name`
        its first word names the task. A field that the server does not know is a `ValidationError`.

        Repeats after passing failures are known to the server by their key, so that none makes a second
        task. Give your own `idempotency_key` to repeat a call of a program that may have died in it: the
        same key and fields within 24 hours are answered with the first task.
        """
        headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())}
        body = _task_body(command, fields)
        return self._connection.post(Task, "/v1/tasks", body, {"strict": "true"}, headers=headers, repeat=True)

    def dry_run(self, command: str | Sequence[str] | None = None, /, **fields: Unpack[TaskFields]) -> Explanation:
        """What would become of a task if it were submitted now. Nothing is created."""
        query = {"strict": "true", "dry_run": "true"}
        return self._connection.post(Explanation, "/v1/tasks", _task_body(command, fields), query, repeat=True)

    def task(self, task: TaskOrId) -> Task:
        """A task as it is now, with the end of its log as `output`."""
        return self._connection.get(Task, _path(task))

    def tasks(
        self,
        *,
        status: TaskStatus | None = None,
        job_name: str | None = None,
        user_id: str | None = None,
        experiment_id: str | None = None,
        array_id: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Task]:
        """Tasks, newest first; all of them, page by page, unless `limit` says how many."""
        query: dict[str, str | int | None] = {
            "status": status,
            "job_name": job_name,
            "user_id": user_id,
            "experiment_id": experiment_id,
            "array_id": array_id,
        }
        left = limit
        while left is None or left > 0:
            size = limits.PAGE_TASKS if left is None else min(left, limits.PAGE_TASKS)
            page = self._connection.get(TaskList, "/v1/tasks", query | {"limit": size}).tasks
            yield from page
            if len(page) < size:
                return
            query["after"] = page[-1].id
            left = None if left is None else left - len(page)

    def wait(self, task: TaskOrId, *, timeout_s: float | None = None, check: bool = False) -> Task:
        """Waits until a task is over, through restarts of the server, and returns it.

        Raises `WaitTimeout` when it takes longer than `timeout_s`, and with `check` `TaskFailed` when the
        task failed.
        """
        task_id = _id(task)
        end = None if timeout_s is None else time.monotonic() + timeout_s
        delay_s, away_since, seen = limits.POLL_DELAY_S[0], None, False
        while True:
            try:
                now = self.task(task_id)
                seen, away_since = True, None
                if now.status in ("completed", "failed"):
                    if check and now.status == "failed":
                        raise TaskFailed(now)
                    return now
            except FetchMLError as error:
                away_since = away_since if away_since is not None else time.monotonic()
                # Never seen it at all: the caller should hear of it now, not in ten minutes.
                if not (seen and is_passing(error) and time.monotonic() - away_since < limits.OUTAGE_MAX_S):
                    raise
            if end is not None:
                left_s = end - time.monotonic()
                if left_s <= 0:
                    raise WaitTimeout(f"task {task_id} has not ended within {timeout_s:g} s")
                delay_s = min(delay_s, left_s)
            time.sleep(delay_s)
            delay_s = min(max(delay_s, limits.POLL_DELAY_S[0]) * 1.5, limits.POLL_DELAY_S[1])

    def cancel(self, task: TaskOrId) -> Task:
        """Asks that a task be stopped, waiting or running, and returns it as it is then.

        One that is over already stays as it is.
        """
        # DELETE hides an ended task; someone who wants to stop one does not want that.
        now = self.task(task)
        if now.status in ("completed", "failed"):
            return now
        self._connection.delete(_path(task))
        return self.task(task)

    def delete(self, task: TaskOrId, *, purge: bool = False) -> None:
        """Hides a task that is over (a cancelled one with `purge` only); cancels one that is not."""
        self._connection.delete(_path(task), {"purge": "true"} if purge else None)

    def rerun(self, task: TaskOrId, **changes: Unpack[TaskFields]) -> Task:
        """Submits a task again, with changes to its request."""
        return self._connection.post(Task, f"{_path(task)}/rerun", changes)

    def explain(self, task: TaskOrId) -> Explanation:
        """Why a task has not started, what would help, and when it is likely to start."""
        return self._connection.get(Explanation, f"{_path(task)}/explain")

    def set_priority(self, task: TaskOrId, priority: int) -> Task:
        """Gives a task another priority, 1 to 10."""
        path = f"/v1/scheduler/jobs/{quote(_id(task), safe='')}/priority"
        return self._connection.patch(Task, path, {"priority": priority})

    def metrics(self, task: TaskOrId, *, names: Sequence[str] | None = None, attempt: int | None = None) -> TaskMetrics:
        """What a task wrote to `$FETCHML_METRICS`, and what its attempt used of its machine."""
        query = {"names": None if names is None else ",".join(names), "attempt": attempt}
        return self._connection.get(TaskMetrics, f"{_path(task)}/metrics", query)

    def manifest(self, task: TaskOrId, *, attempt: int | None = None) -> RunManifest:
        """How a run came about: all that it takes to run it again."""
        return self._connection.get(RunManifest, f"{_path(task)}/manifest", {"attempt": attempt})

    # Logs

    def logs(self, task: TaskOrId, *, attempt: int | None = None, node: int | None = None) -> str:
        """The whole log as it is now, of the latest attempt unless told otherwise."""
        return self.log_bytes(task, attempt=attempt, node=node).decode(errors="replace")

    def log_bytes(self, task: TaskOrId, *, attempt: int | None = None, node: int | None = None) -> bytes:
        """The same, its exact bytes."""
        return self._connection.send("GET", f"{_path(task)}/logs", query={"attempt": attempt, "node": node}).content

    def follow(self, task: TaskOrId, *, node: int | None = None) -> Iterator[str]:
        """The log from its beginning, piece by piece as it is written, through all attempts.

        Ends when the task ends. A broken connection is taken up again without gap or repeat.
        """
        events = _events.follow(self._connection, f"{_path(task)}/logs", {"follow": "true", "node": node})
        for event in events:
            if event.name == "end":
                return
            if event.name in ("", "message", "log"):
                try:
                    text = json.loads(event.data)["text"]
                except (ValueError, KeyError, TypeError) as error:
                    raise UnexpectedAnswer(f"a log event that is none: {error}") from error
                yield cast(str, text)

    # Artifacts

    def artifacts(self, task: TaskOrId, *, attempt: int | None = None) -> list[Artifact]:
        """The files that a task left in `$FETCHML_OUTPUT_DIR`."""
        return self._connection.get(ArtifactList, f"{_path(task)}/artifacts", {"attempt": attempt}).artifacts

    def download(self, task: TaskOrId, artifact: Artifact, to: str | os.PathLike[str] = ".") -> Path:
        """Writes an artifact below the directory `to`, under its own path, and returns where.

        The file is there only when all its bytes are, and they have the promised hash.
        """
        target = _below(Path(to), artifact.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        handle, part = tempfile.mkstemp(prefix=f".{target.name[:64]}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                with self._connection.stream(f"{_path(task)}/artifacts/{quote(artifact.path)}") as response:
                    for chunk in response.iter_bytes(limits.DOWNLOAD_CHUNK_BYTES):
                        digest.update(chunk)
                        file.write(chunk)
            if digest.hexdigest() != artifact.sha256:
                raise UnexpectedAnswer(f"{artifact.path} arrived with another hash than the server promised")
            os.chmod(part, 0o644)
            os.replace(part, target)
        except BaseException:
            os.unlink(part)
            raise
        return target

    # The queue, the workers, and what they were used for

    def queue(self) -> QueueStats:
        """Counts over the queue."""
        return self._connection.get(QueueStats, "/v1/queue")

    def status(self) -> SchedulerStatus:
        """Queue depths, workers and what runs."""
        return self._connection.get(SchedulerStatus, "/v1/scheduler/status")

    def workers(self) -> list[Worker]:
        """The workers."""
        return self._connection.get(list[Worker], "/v1/scheduler/workers")

    def usage(self) -> UsageReport:
        """Who used how much, and who holds what now."""
        return self._connection.get(UsageReport, "/v1/usage")

    def health(self) -> Health:
        """How the server is."""
        return self._connection.get(Health, "/health")

    # Experiments

    def create_experiment(self, name: str, *, description: str | None = None) -> Experiment:
        """Makes an experiment; give its `id` to `submit` as `experiment_id`."""
        body = {"name": name} | ({} if description is None else {"description": description})
        return self._connection.post(Experiment, "/v1/experiments", body, {"strict": "true"})

    def experiments(self, *, status: ExperimentStatus | None = None) -> list[Experiment]:
        """The experiments."""
        return self._connection.get(list[Experiment], "/v1/experiments", {"status": status})

    def experiment(self, experiment_id: str) -> Experiment:
        """One experiment."""
        return self._connection.get(Experiment, f"/v1/experiments/{quote(experiment_id, safe='')}")


def _task_body(command: str | Sequence[str] | None, fields: TaskFields) -> TaskFields:
    """The request of a new task."""
    body = fields.copy()
    if command is not None:
        if "args" in body:
            raise TypeError("the command is given twice: first, and as args")
        body["args"] = command if isinstance(command, str) else shlex.join(command)
    if "job_name" not in body:
        words = (body.get("entrypoint") or body.get("args") or "task").split()
        body["job_name"] = PurePosixPath(words[0]).name if words else "task"
    return body


def _id(task: TaskOrId) -> str:
    return task.id if isinstance(task, Task) else task


def _path(task: TaskOrId) -> str:
    return f"/v1/tasks/{quote(_id(task), safe='')}"


def _below(directory: Path, path: str) -> Path:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path and os.sep == "\\":
        raise UnexpectedAnswer("the server named an artifact outside of its directory")
    return directory.joinpath(*parts)
