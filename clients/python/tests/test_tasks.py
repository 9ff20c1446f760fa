"""Tasks from submission to end, against a real server and worker."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEADLINE_S, Lab, eventually
from fetchml import Conflict, FetchML, TaskFailed, WaitTimeout

README = Path(__file__).resolve().parents[1] / "README.md"


def test_a_task_runs_and_leaves_a_log_and_files(client: FetchML, tmp_path: Path) -> None:
    script = "printf 'one\\ntwo \\342\\200\\250 three\\n'; mkdir -p $FETCHML_OUTPUT_DIR/a; printf 'a b' > \"$FETCHML_OUTPUT_DIR/a/b %.txt\""
    submitted = client.submit(["bash", "-c", script], cpu=1, metadata={"seed": "3"})
    assert (submitted.job_name, submitted.status, submitted.metadata) == ("bash", "queued", {"seed": "3"})
    assert submitted.created_at.tzinfo is not None

    followed = "".join(client.follow(submitted))
    ended = client.wait(submitted, timeout_s=DEADLINE_S, check=True)
    assert ended.status == "completed"
    assert followed == client.logs(ended) == ended.output == "one\ntwo \u2028 three\n"

    (artifact,) = client.artifacts(ended.id)
    assert (artifact.path, artifact.size_bytes) == ("a/b %.txt", 3)
    path = client.download(ended, artifact, tmp_path)
    assert (path, path.read_text()) == (tmp_path / "a" / "b %.txt", "a b")
    assert [found.name for found in path.parent.iterdir()] == ["b %.txt"]

    manifest = client.manifest(ended)
    assert manifest.outcome is not None and manifest.outcome.success
    assert [entry.path for entry in manifest.artifacts] == ["a/b %.txt"]


def test_a_task_is_submitted_once(client: FetchML) -> None:
    task = client.submit("true", job_name="once", idempotency_key="once")
    assert client.submit("true", job_name="once", idempotency_key="once").id == task.id
    with pytest.raises(Conflict):
        client.submit("false", job_name="once", idempotency_key="once")
    assert [found.id for found in client.tasks(job_name="once")] == [task.id]


def test_a_failed_task_says_why(client: FetchML) -> None:
    task = client.submit("sh -c 'echo $MODE; exit 3'", env={"MODE": "loud"})
    with pytest.raises(TaskFailed, match=r"failed \(exit_nonzero\)") as failed:
        client.wait(task, timeout_s=DEADLINE_S, check=True)
    failure = failed.value.task.failure
    assert failure is not None and (failure.cause, failure.exit_code) == ("exit_nonzero", 3)
    assert client.wait(task).output == "loud\n"


def test_waiting_can_be_given_up_and_the_task_cancelled(client: FetchML) -> None:
    task = client.submit("sleep 600")
    with pytest.raises(WaitTimeout):
        client.wait(task, timeout_s=0.1)
    assert client.cancel(task).id == task.id
    ended = client.wait(task, timeout_s=DEADLINE_S)
    assert ended.failure is not None and ended.failure.cause == "cancelled"
    # Cancelling what is over neither hides nor changes it.
    assert client.cancel(task) == ended


def test_a_waiting_task_is_explained(client: FetchML) -> None:
    task = client.submit("true", gpu=64, priority=2)
    try:
        eventually("it is decided", lambda: client.explain(task).reason != "deciding")
        explanation = client.explain(task)
        assert explanation.reason == "nothing_fits"
        assert explanation.workers[0].obstacles[0].constraint == "gpus"
        assert client.set_priority(task, 3).priority == 3
    finally:
        client.cancel(task)
    assert client.dry_run("true", gpu=64).task_id is None


def test_lists_are_read_page_by_page(client: FetchML, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetchml._limits.PAGE_TASKS", 2)
    experiment = client.create_experiment("pages", description="of tasks")
    tasks = [client.submit("true", job_name="page", experiment_id=experiment.id) for _ in range(5)]
    newest_first = [task.id for task in reversed(tasks)]
    assert [task.id for task in client.tasks(experiment_id=experiment.id)] == newest_first
    assert [task.id for task in client.tasks(experiment_id=experiment.id, limit=3)] == newest_first[:3]
    for task in tasks:
        client.wait(task, timeout_s=DEADLINE_S, check=True)
    assert [task.id for task in client.tasks(experiment_id=experiment.id, status="failed")] == []
    again = client.rerun(tasks[0], job_name="again")
    assert (again.rerun_of, again.job_name) == (tasks[0].id, "again")
    assert client.wait(again, timeout_s=DEADLINE_S, check=True).status == "completed"
    assert client.experiment(experiment.id) in client.experiments(status="active")


def test_metrics_are_read(client: FetchML) -> None:
    task = client.submit(["sh", "-c", 'echo \'{"step": 1, "loss": 0.5}\' >> "$FETCHML_METRICS"'])
    client.wait(task, timeout_s=DEADLINE_S, check=True)
    loss = client.metrics(task, names=["loss"]).series["loss"]
    assert (loss.count, loss.last.value, loss.points[0].step) == (1, 0.5, 1.0)


def test_the_whole_is_shown(client: FetchML) -> None:
    (worker,) = client.workers()
    assert (worker.status, worker.slots.batch_total) == ("active", 2)
    assert client.queue().workers == client.status().workers_active == 1
    assert client.health().status == "healthy"
    assert client.usage().holdings is not None


def test_the_example_of_the_readme_runs(lab: Lab, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    environment = {"HOME": str(lab.home)}
    ran = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, env=environment, text=True, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["training", "results/accuracy.txt 0.97"]


def test_the_command_and_the_client_see_the_same(lab: Lab, client: FetchML) -> None:
    task_id = lab.fetchml("submit", "--no-snapshot", "--follow", "--", "echo", "hello").strip() and next(client.tasks())
    assert client.logs(task_id) == "hello\n"
