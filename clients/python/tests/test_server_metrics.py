"""What the server measures of itself, read as Prometheus' own library for Python reads it."""

from __future__ import annotations

import httpx
from conftest import DEADLINE_S, Lab
from fetchml import FetchML
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(lab: Lab) -> tuple[dict[str, str], Samples]:
    """The type of each metric, and every sample by its name and labels."""
    answer = httpx.get(f"{lab.url}/metrics", headers={"authorization": f"Bearer {lab.key}"}, timeout=DEADLINE_S)
    assert answer.status_code == 200, answer.text
    families = list(text_string_to_metric_families(answer.text))
    samples: Samples = {}
    for family in families:
        assert family.documentation, family.name
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, key
            samples[key] = sample.value
    return {family.name: family.type for family in families}, samples


def test_numbers_move_as_a_task_runs(lab: Lab, client: FetchML) -> None:
    _, before = scraped(lab)
    task = client.submit("sh -c 'exit 3'")
    client.wait(task, timeout_s=DEADLINE_S)
    types, after = scraped(lab)

    moved = {
        ("fetchml_tasks_submitted_total", ()): 1,
        ("fetchml_placements_total", ()): 1,
        ("fetchml_tasks_ended_total", (("cause", "exit_nonzero"), ("status", "failed"))): 1,
        ("fetchml_tasks", (("status", "failed"),)): 1,
        ("fetchml_http_requests_total", (("method", "POST"), ("route", "/v1/tasks"), ("status", "2xx"))): 1,
    }
    assert {key: after[key] - before.get(key, 0) for key in moved} == moved
    for name in ("fetchml_audit_sequence", "fetchml_commit_duration_seconds_count", "process_cpu_seconds_total"):
        assert after[name, ()] > before[name, ()], name
    assert after["fetchml_workers", (("status", "active"),)] == 1
    assert after["fetchml_streams_open", (("kind", "worker"),)] == 1

    assert types["fetchml_tasks"] == "gauge"
    assert types["fetchml_tasks_submitted"] == types["process_cpu_seconds"] == "counter"
    assert types["fetchml_http_request_duration_seconds"] == "histogram"


def test_buckets_add_up(lab: Lab, client: FetchML) -> None:
    client.queue()
    types, samples = scraped(lab)
    histograms = [name for name, kind in types.items() if kind == "histogram"]
    assert len(histograms) == 5
    for name in histograms:
        series: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
        for (sample, labels), value in samples.items():
            if sample == f"{name}_bucket":
                rest = tuple(label for label in labels if label[0] != "le")
                series.setdefault(rest, []).append((float(dict(labels)["le"]), value))
        assert series, name
        for labels, buckets in series.items():
            buckets.sort()
            counts = [count for _, count in buckets]
            assert counts == sorted(counts), (name, labels)
            assert buckets[-1] == (float("inf"), samples[f"{name}_count", labels])
