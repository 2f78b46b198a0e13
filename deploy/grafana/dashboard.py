"""Writes dashboards/pointsman.json from the table below: python deploy/grafana/dashboard.py. Standard library only.

A test holds the file to this program, and every metric named here to what a gateway really shows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

OUT = Path(__file__).parent / "dashboards" / "pointsman.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
HERE = 'job=~"$job",instance=~"$instance"'
CALLS = f'{HERE},route=~"$route",backend=~"$backend"'


class Panel(NamedTuple):
    """One panel. `queries` are (PromQL, legend); `width` of 24, `height` in rows of the grid."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    about: str = ""
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stack: bool = False
    most: float | None = None


def rate(metric: str, labels: str = CALLS, by: str = "", more: str = "") -> str:
    """Sum of a counter's rate a second."""
    inside = f"{labels},{more}" if more else labels
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{inside}}}[$__rate_interval]))"


def grown(metric: str, labels: str = HERE, by: str = "") -> str:
    """Sum of what a counter grew by between two points of the panel."""
    return f"sum{f' by ({by})' if by else ''} (increase({metric}{{{labels}}}[$__rate_interval]))"


def total(metric: str, labels: str = HERE, by: str = "") -> str:
    """Sum of a gauge."""
    return f"sum{f' by ({by})' if by else ''} ({metric}{{{labels}}})"


def share(part: str, whole: str) -> str:
    """A ratio that is absent, not NaN, where there is nothing."""
    return f"{part} / ({whole} > 0)"


def failing(more: str, by: str = "") -> str:
    """The share of requests that failed so: 0 where none did, absent where there were no requests."""
    whole = rate(REQUESTS, by=by)
    return f"({rate(ERRORS, by=by, more=more)} or 0 * {whole}) / ({whole} > 0)"


def quantiles(metric: str, by: str = "") -> list[tuple[str, str]]:
    """The 50th, 90th and 99th percentile of a histogram; with `by`, the 99th of each."""
    if by:
        return [(f"histogram_quantile(0.99, {rate(f'{metric}_bucket', by=f'{by}, le')})", f"{{{{{by}}}}}")]
    return [(f"histogram_quantile({q}, {rate(f'{metric}_bucket', by='le')})", f"p{q * 100:.0f}") for q in (0.5, 0.9, 0.99)]


REQUESTS, ERRORS = "pointsman_requests_total", "pointsman_request_errors_total"
TTFT, TPOT, WHOLE = "pointsman_time_to_first_token_seconds", "pointsman_time_per_output_token_seconds", "pointsman_request_duration_seconds"
TOKENS, OURS = "pointsman_tokens_total", 'origin!="client"'
PROMPT, CACHED = 'type=~"input|cached|cache_write"', 'type="cached"'
CPU = f"sum by (instance) (rate(process_cpu_seconds_total{{{HERE}}}[$__rate_interval]))"


def stat(title: str, unit: str, query: str) -> Panel:
    return Panel(title, unit, [(query, "")], kind="stat", width=3, height=4)


ROWS: tuple[tuple[str, Sequence[Panel]], ...] = (
    ("Now", (
        stat("Requests", "reqps", rate(REQUESTS)),
        stat("Failing, not by clients", "percentunit", failing(OURS)),
        stat("First token, p99", "s", quantiles(TTFT)[2][0]),
        stat("Output", "tokps", rate(TOKENS, more='type=~"output|reasoning"')),
        stat("In flight", "short", total("pointsman_requests_in_flight")),
        stat("Parked", "short", total("pointsman_requests_waiting")),
        stat("Replicas usable", "short", total("pointsman_replica_up")),
        stat("Dollars an hour", "currencyUSD", f"3600 * {rate('pointsman_cost_dollars_total')}"),
    )),
    ("Requests", (
        Panel("Requests by route", "reqps", [(rate(REQUESTS, by="route"), "{{route}}")], stack=True),
        Panel("Requests by status", "reqps", [(rate(REQUESTS, by="code"), "{{code}}")], "499: the client left before the end.", stack=True),
        Panel("Failures by whose they are", "reqps", [(rate(ERRORS, by="origin, kind"), "{{origin}}: {{kind}}")],
              "Origin: the client's own, the gateway's, a backend's.", stack=True),
        Panel("Share failing by route", "percentunit",
              [(failing(OURS, "route"), "{{route}}")],
              "Without failures that are the client's own."),
        Panel("Share failing by backend", "percentunit",
              [(failing('origin="backend"', "backend"), "{{backend}}")]),
        Panel("Attempts after a request's first", "reqps", [(rate("pointsman_retries_total", by="route"), "{{route}}")]),
    )),
    ("Latency", (
        Panel("Time to first token", "s", quantiles(TTFT), "From a request's arrival to its first content, queue included."),
        Panel("Time per output token", "s", quantiles(TPOT),
              "Of a stream: (duration - time to first token) / (tokens - 1). Its mean, not each gap."),
        Panel("Whole requests", "s", quantiles(WHOLE), "From arrival to the end."),
        Panel("Time to first token, p99 by route", "s", quantiles(TTFT, "route")),
        Panel("Time to first token, p99 by backend", "s", quantiles(TTFT, "backend")),
        Panel("Time to first token", "s", [(grown(f"{TTFT}_bucket", CALLS, "le"), "{{le}}")], kind="heatmap"),
    )),
    ("Tokens", (
        Panel("Tokens by type", "tokps", [(rate(TOKENS, by="type"), "{{type}}")], "The types are disjoint.", stack=True),
        Panel("Output by route", "tokps", [(rate(TOKENS, by="route", more='type=~"output|reasoning"'), "{{route}}")], stack=True),
        Panel("Prompt tokens that were cached", "percentunit",
              [(share(rate(TOKENS, by="backend", more=CACHED), rate(TOKENS, by="backend", more=PROMPT)), "{{backend}}")],
              "As engines and providers tell it.", most=1),
        Panel("KV-aware routing: cached share", "percentunit", [
            (share(rate("pointsman_cache_predicted_tokens_total", HERE), rate("pointsman_cache_prompt_tokens_total", HERE)), "predicted"),
            (share(rate("pointsman_cache_reported_tokens_total", HERE), rate("pointsman_cache_prompt_tokens_total", HERE)), "reported"),
        ], most=1),
        Panel("KV-aware routing: error of predictions", "short",
              [(f"max by (instance) (pointsman_cache_error_tokens{{{HERE}}})", "{{instance}}: tokens, p95")]),
        Panel("Counts that cannot be true", "short", [
            (grown("pointsman_usage_untrue_total", by="invariant"), "{{invariant}}"),
            (grown("pointsman_usage_unreadable_total"), "unreadable"),
        ]),
    )),
    ("Replicas and queue", (
        Panel("In flight and parked", "short", [
            (total("pointsman_requests_in_flight", by="instance"), "{{instance}} in flight"),
            (total("pointsman_requests_waiting", by="instance"), "{{instance}} parked"),
            (total("pointsman_scheduler_held", by="group"), "{{group}} held by the scheduler"),
        ], "Parked: a model loads, or all slots are taken."),
        Panel("In flight by replica", "short", [(total("pointsman_replica_in_flight", by="replica"), "{{replica}}")], stack=True),
        Panel("Replicas that can be sent calls", "short",
              [(f"max by (replica) (pointsman_replica_up{{{HERE}}})", "{{replica}}")], kind="state-timeline"),
        Panel("Connections to backends that were reused", "percentunit", [(share(
            rate("pointsman_upstream_pool_hits_total", HERE, "instance"),
            f"({rate('pointsman_upstream_pool_hits_total', HERE, 'instance')} + "
            f"{rate('pointsman_upstream_connections_opened_total', HERE, 'instance')})"), "{{instance}}")], most=1),
        Panel("Gateways that schedule together", "short", [
            (f"max by (instance) (pointsman_peers{{{HERE}}})", "{{instance}}: others"),
            (f"max by (instance) (pointsman_redis_connected{{{HERE}}})", "{{instance}}: Redis"),
        ]),
        Panel("Bookings of the scheduler", "short", [(total("pointsman_scheduler_bookings", by="group"), "{{group}}")]),
    )),
    ("Engines of the gateway", (
        Panel("Memory of engines", "bytes", [
            (total("pointsman_engine_memory_bytes", f'{HERE},backend=~"$backend"', "backend"), "{{backend}}"),
            (f"max (pointsman_memory_budget_bytes{{{HERE}}}) > 0", "budget"),
        ]),
        Panel("In memory", "short", [(f'max by (backend) (pointsman_engine_resident{{{HERE},backend=~"$backend"}})', "{{backend}}")],
              kind="state-timeline"),
        Panel("Loads, unloads, restarts", "short", [
            (grown("pointsman_engine_loads_total", by="backend"), "{{backend}} loaded"),
            (grown("pointsman_engine_unloads_total", by="backend, why"), "{{backend}} unloaded: {{why}}"),
            (grown("pointsman_engine_restarts_total", by="backend"), "{{backend}} started anew"),
        ]),
        Panel("A wait for a load, mean", "s", [(share(
            rate("pointsman_engine_wait_seconds_total", HERE), rate("pointsman_engine_waits_total", HERE)), "wait")]),
        Panel("Slots saved and restored", "ops", [
            (rate("pointsman_kv_saves_total", HERE, "backend"), "{{backend}} saved"),
            (rate("pointsman_kv_restores_total", HERE, "backend"), "{{backend}} restored"),
            (rate("pointsman_kv_primes_total", HERE, "backend"), "{{backend}} computed for several"),
            (rate("pointsman_kv_failed_total", HERE, "backend"), "{{backend}} failed"),
        ]),
        Panel("Saved KV", "bytes", [
            (total("pointsman_kv_memory_bytes", by="backend"), "{{backend}} in memory"),
            (total("pointsman_kv_disk_bytes", by="backend"), "{{backend}} on disk"),
        ]),
    )),
    ("Experiments and cost", (
        Panel("Cost by backend", "currencyUSD", [
            (f"3600 * {rate('pointsman_cost_dollars_total', by='backend')}", "{{backend}}"),
            (f"3600 * {rate('pointsman_cost_reported_dollars_total', by='backend')}", "{{backend}}, as it tells itself"),
        ], "Dollars an hour."),
        Panel("Shadow requests", "reqps", [
            (rate("pointsman_shadow_requests_total", HERE, "experiment, arm, outcome"), "{{experiment}} {{arm}}: {{outcome}}"),
        ], stack=True),
        Panel("Requests that had no part in an experiment", "reqps",
              [(rate("pointsman_experiment_left_out_total", HERE, "experiment, reason"), "{{experiment}}: {{reason}}")]),
        Panel("Cost by route", "currencyUSD",
              [(f"3600 * {rate('pointsman_cost_dollars_total', by='route')}", "{{route}}")], "Dollars an hour."),
        Panel("Spent on shadows today", "currencyUSD", [(total("pointsman_shadow_spent_dollars", by="experiment"), "{{experiment}}")]),
        Panel("Records of experiments", "short", [
            (total("pointsman_experiment_records_queued"), "waiting"),
            (grown("pointsman_experiment_records_lost_total"), "lost"),
            (grown("pointsman_experiment_records_dropped_total"), "dropped"),
        ]),
    )),
    ("Processes", (
        Panel("Processor", "short", [(CPU, "{{instance}}")], "Cores; without the engines' own processes."),
        Panel("Memory", "bytes", [(total("process_resident_memory_bytes", by="instance"), "{{instance}}")]),
        Panel("Open files", "short", [(total("process_open_fds", by="instance"), "{{instance}}")]),
        Panel("Sent to clients", "Bps", [(rate("pointsman_response_bytes_total", by="route"), "{{route}}")], stack=True),
        Panel("Records waiting and dropped", "short", [
            (total("pointsman_records_waiting", by="instance"), "{{instance}} waiting"),
            (grown("pointsman_records_dropped_total", by="instance"), "{{instance}} dropped"),
        ]),
        Panel("Versions", "short", [(f"count by (version) (pointsman_build_info{{{HERE}}})", "{{version}}")]),
    )),
)  # fmt: skip


def target(number: int, query: tuple[str, str], kind: str) -> dict[str, Any]:
    expression, legend = query
    form = "heatmap" if kind == "heatmap" else "time_series"
    made = {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": expression, "legendFormat": legend or "__auto", "format": form}
    return made | ({"instant": True, "range": False} if kind == "stat" else {"range": True})


def drawn(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    """One panel in Grafana's form."""
    custom: dict[str, Any] = {"fillOpacity": 25 if panel.stack else 0, "lineWidth": 1, "showPoints": "never", "spanNulls": False}
    custom["stacking"] = {"mode": "normal" if panel.stack else "none", "group": "A"}
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "custom": custom if panel.kind == "timeseries" else {}}
    if panel.most is not None:
        defaults["max"] = panel.most
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "colorMode": "none"}
    elif panel.kind == "heatmap":
        options = {"calculate": False, "yAxis": {"unit": panel.unit}, "legend": {"show": True}}
    elif panel.kind == "state-timeline":
        options = {"showValue": "never", "legend": {"displayMode": "list", "placement": "bottom"}}
        shown = {"0": {"text": "no", "color": "red"}, "1": {"text": "yes", "color": "green"}}
        defaults["mappings"] = [{"type": "value", "options": shown}]
        defaults["custom"] = {"fillOpacity": 70, "lineWidth": 0}
    return {
        "id": number, "type": panel.kind, "title": panel.title, "description": panel.about, "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height}, "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options, "targets": [target(i, query, panel.kind) for i, query in enumerate(panel.queries)],
    }  # fmt: skip


def panels() -> Iterable[dict[str, Any]]:
    """All of them, row by row, left to right."""
    number, x, y = 0, 0, 0
    for title, row in ROWS:
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        x, y = 0, y + 1
        for panel in row:
            number += 1
            yield drawn(number, panel, x, y)
            x += panel.width
            if x >= 24:
                x, y = 0, y + panel.height


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "datasource": SOURCE, "query": {"query": query, "refId": name}, "definition": query,
        "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The whole of it, as Grafana 10 and newer import it."""
    return {
        "uid": "pointsman", "title": "Pointsman", "tags": ["pointsman", "llm"], "schemaVersion": 39, "version": 1, "editable": True,
        "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "timezone": "browser", "annotations": {"list": []},
        "links": [], "panels": list(panels()),
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0},
            variable("job", "Job", "label_values(pointsman_build_info, job)"),
            variable("instance", "Gateway", 'label_values(pointsman_build_info{job=~"$job"}, instance)'),
            variable("route", "Route", f"label_values({REQUESTS}{{{HERE}}}, route)"),
            variable("backend", "Backend", f"label_values({REQUESTS}{{{HERE}}}, backend)"),
        ]},
    }  # fmt: skip


def text() -> str:
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    OUT.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{OUT.name}: {len(text())} characters\n")
