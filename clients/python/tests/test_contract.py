"""A client generated from the contract, by a generator that knows nothing of FetchML, works as it comes.

`tests/contract/contract.json` is the contract that the server promises to keep; the models and paths here
are the generator's.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest
from conftest import Lab, eventually

CONTRACT = Path(__file__).resolve().parents[3] / "tests" / "contract" / "contract.json"


class Generated(Protocol):
    """The modules of the generated package, by their names in it."""

    def __call__(self, module: str) -> ModuleType: ...


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generated]:
    """A client generated anew."""
    directory = tmp_path_factory.mktemp("generated")
    programs = Path(sys.executable).parent
    command: list[str | Path] = [programs / "openapi-python-client", "generate", "--path", CONTRACT]
    made = subprocess.run(
        [*command, "--meta", "none", "--output-path", directory / "contract_client"],
        env={"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(directory)},
        text=True,
        capture_output=True,
        check=False,
    )
    # A warning means that a part of the contract has no client.
    assert (made.returncode, "arning" in made.stdout + made.stderr) == (0, False), made.stdout + made.stderr
    sys.path.insert(0, str(directory))
    try:
        yield lambda module: importlib.import_module(f"contract_client.{module}")
    finally:
        sys.path.remove(str(directory))


@pytest.fixture
def contract_client(lab: Lab, generated: Generated) -> Any:
    """A generated client that fails on any status which the contract does not name."""
    return generated("client").AuthenticatedClient(
        lab.url, lab.key, prefix="", auth_header_name="X-API-Key", raise_on_unexpected_status=True
    )


def test_it_submits_lists_reads_and_cancels(generated: Generated, contract_client: Any) -> None:
    def call(operation: str, *arguments: str, **body: Any) -> Any:
        module = generated(f"api.default.{operation}")
        return module.sync_detailed(*arguments, client=contract_client, **body)

    models = generated("models")
    metadata = models.CreateTaskRequestMetadata.from_dict({"seed": "3"})
    request = models.CreateTaskRequest("contract", args="sleep 600", cpu=1, priority=7, metadata=metadata)
    submitted = call("post_v1_tasks", body=request)
    assert submitted.status_code == 201
    task = submitted.parsed
    assert (type(task), task.job_name, task.priority) == (models.Task, "contract", 7)

    listed = call("get_v1_tasks", limit=5).parsed
    assert (type(listed), listed.limit, listed.offset) == (models.TaskList, 5, 0)
    assert listed.tasks[0].id == task.id

    def status() -> Any:
        shown = call("get_v_1_tasks_task_id", task.id).parsed
        assert (type(shown), shown.additional_properties["metadata"]) == (models.Task, {"seed": "3"})
        return shown.status

    eventually("it runs", lambda: status() == models.TaskStatus.RUNNING)
    queue = call("get_v1_queue").parsed
    assert type(queue) is models.QueueStats and queue.running >= 1 and queue.workers == 1

    assert call("delete_v_1_tasks_task_id", task.id).status_code == 204
    eventually("it is stopped", lambda: status() == models.TaskStatus.FAILED)
    failed = call("get_v1_tasks", status=models.GetV1TasksStatus.FAILED).parsed
    assert failed.tasks[0].id == task.id


def test_refusals_are_read(generated: Generated, contract_client: Any) -> None:
    models = generated("models")
    refused = generated("api.default.post_v1_tasks").sync_detailed(
        client=contract_client, body=models.CreateTaskRequest("contract", args="true", gpu=-1)
    )
    assert refused.status_code == 422
    assert (type(refused.parsed), refused.parsed.code) == (
        models.ErrorResponse,
        models.ErrorResponseCode.VALIDATION_ERROR,
    )


def test_it_reads_the_scheduler(generated: Generated, contract_client: Any) -> None:
    models = generated("models")
    (worker,) = generated("api.scheduler.get_v1_scheduler_workers").sync(client=contract_client)
    assert (type(worker), worker.status) == (models.Worker, models.WorkerStatus.ACTIVE)
    assert generated("api.scheduler.get_v1_scheduler_status").sync(client=contract_client).workers_active == 1
