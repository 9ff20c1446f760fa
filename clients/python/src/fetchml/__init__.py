"""A client of FetchML, a self-hosted server for machine-learning experiments.

    from fetchml import FetchML

    with FetchML() as lab:
        task = lab.submit(["python", "train.py", "--epochs", "10"], gpu=1)
        print(lab.wait(task, check=True).status)
"""

from ._client import FetchML
from ._errors import (
    ApiError,
    BadRequest,
    ConfigurationError,
    Conflict,
    ConnectionFailed,
    FetchMLError,
    Forbidden,
    InternalError,
    NotFound,
    RateLimited,
    ServiceUnavailable,
    TaskFailed,
    Unauthorized,
    UnexpectedAnswer,
    ValidationError,
    WaitTimeout,
)
from .models import (
    Artifact,
    Experiment,
    Explanation,
    Health,
    Problem,
    QueueStats,
    RunManifest,
    SchedulerStatus,
    Task,
    TaskFields,
    TaskMetrics,
    UsageReport,
    Worker,
)

__all__ = [
    "ApiError",
    "Artifact",
    "BadRequest",
    "ConfigurationError",
    "Conflict",
    "ConnectionFailed",
    "Experiment",
    "Explanation",
    "FetchML",
    "FetchMLError",
    "Forbidden",
    "Health",
    "InternalError",
    "NotFound",
    "Problem",
    "QueueStats",
    "RateLimited",
    "RunManifest",
    "SchedulerStatus",
    "ServiceUnavailable",
    "Task",
    "TaskFailed",
    "TaskFields",
    "TaskMetrics",
    "Unauthorized",
    "UnexpectedAnswer",
    "UsageReport",
    "ValidationError",
    "WaitTimeout",
    "Worker",
]
