"""The Grafana dashboard: a whole one, whose queries ask for metrics and labels that the server has."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.test_metrics import documented
from tests.support import ROOT

Json = dict[str, Any]
DASHBOARD: Json = json.loads((ROOT / "docs" / "dashboards" / "loquent.json").read_text())
SERIES = {  # what a type's series are called besides the metric
    "histogram": ("_bucket", "_sum", "_count"),
    "counter": ("",),
    "gauge": ("",),
}
KNOWN = {name + end: {*labels, "le"} for name, type, labels in documented() for end in SERIES[type]}
OF_PROMETHEUS = {"job", "instance"}  # labels of every series


def panels() -> list[Json]:
    return [each for each in DASHBOARD["panels"] if each["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def asked(query: str) -> list[tuple[str, str]]:
    """The series that a query asks for, each with the text of its selector."""
    return re.findall(r"\b((?:loquent|process)_\w+)(?:\{([^}]*)\})?", query)


@pytest.mark.parametrize(("title", "query"), list(queries()))
def test_a_query_asks_for_series_and_labels_that_exist(title: str, query: str) -> None:
    found = asked(query)
    assert found, query
    assert query.count("(") == query.count(")")
    for name, selector in found:
        assert name in KNOWN, f"{title}: there is no {name}"
        assert set(re.findall(r"(\w+)\s*[=!]", selector)) <= KNOWN[name] | OF_PROMETHEUS, f"{title}: {selector}"
    for grouping in re.findall(r"by \(([^)]*)\)", query):
        labels = {each.strip() for each in grouping.split(",")}
        assert any(labels <= KNOWN[name] | OF_PROMETHEUS for name, _ in found), f"{title}: by {grouping}"


@pytest.mark.parametrize(("title", "query"), list(queries()))
def test_a_counter_is_asked_for_as_a_rate_and_a_gauge_is_not(title: str, query: str) -> None:
    counts = {name for name, type, _ in documented() if type == "counter"}
    for name, _ in asked(query):
        rated = re.search(rf"\b(rate|increase)\({name}\b", query) is not None
        assert rated == (name in counts or name.endswith("_bucket")), f"{title}: {name}"


def test_panels_have_ids_of_their_own_a_data_source_and_a_place_that_no_other_covers() -> None:
    every = DASHBOARD["panels"]
    assert len({each["id"] for each in every}) == len(every)
    covered: set[tuple[int, int]] = set()
    for each in every:
        at = each["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & covered, each["title"]
        covered |= cells
    for each in panels():
        assert each["type"] in ("timeseries", "stat")
        assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"] == each["datasource"] for target in each["targets"])
        letters = [target["refId"] for target in each["targets"]]
        assert len(set(letters)) == len(letters)


def test_it_is_a_dashboard_that_grafana_imports() -> None:
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time", "annotations"} <= set(DASHBOARD)
    assert DASHBOARD["schemaVersion"] >= 36
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "job", "instance"]


def test_every_metric_of_the_table_is_shown_or_can_do_without() -> None:
    shown = {name for _, query in queries() for name, _ in asked(query)}
    missing = {name for name, series in _by_metric().items() if not series & shown}
    assert missing <= {
        "loquent_anomaly_causes_total",
        "loquent_anomaly_p_value",
        "loquent_anomaly_ready",
        "loquent_anomaly_seconds",
        "loquent_history_commits_total",
        "loquent_history_failures_total",
        "loquent_image_queue",
        "loquent_image_ready",
        "loquent_image_seconds",
        "loquent_images_total",
        "loquent_listening_ready",
        "loquent_part_replicas",
        "loquent_part_requests",
        "loquent_prefix_cache_hits_total",
        "loquent_speech_real_time_factor",
        "loquent_transcription_seconds",
        "process_start_time_seconds",
        "process_virtual_memory_bytes",
    }


def _by_metric() -> dict[str, set[str]]:
    return {name: {name + end for end in SERIES[type]} for name, type, _ in documented()}
