"""From single measurements to medians, ratios and bars."""

from __future__ import annotations

from statistics import median

MEASURES = (
    "requests_per_second", "per_cpu_second", "rows_per_second", "p50_ms", "p99_ms", "cpu_us", "rss_mb", "errors",
    "server_cpu", "client_cpu", "beside_cpu_us", "beside_rss_mb", "lag_seconds", "worker_mb",
)  # fmt: skip
Summary = dict[str, dict[str, dict[str, list[float]]]]  # load -> server -> measure -> median, lowest, highest


def summarize(rounds: list[dict[str, dict[str, dict]]]) -> Summary:  # of each round: load -> server -> measures
    "Median, lowest and highest of every measure over the rounds."
    return {
        load: {
            name: {
                m: [f([r[load][name][m] for r in rounds]) for f in (median, min, max)] for m in MEASURES
            }
            for name in servers
        }
        for load, servers in rounds[0].items()
    }  # fmt: skip


def ratios(summary: Summary, measure: str = "requests_per_second") -> dict[str, dict[str, float]]:
    "Per load, our median over everybody's."
    values = {load: {name: m[measure][0] for name, m in servers.items()} for load, servers in summary.items()}
    return {
        load: {name: servers["ours"] / value for name, value in servers.items() if name != "ours"}
        for load, servers in values.items()
        if "ours" in servers
    }


def within_rounds(rounds: list[dict[str, dict[str, dict]]]) -> dict[str, dict[str, list[float]]]:
    "Per load, lowest and highest of our rate over everybody's in the same round."
    found: dict[str, dict[str, list[float]]] = {}
    for load, servers in rounds[0].items():
        for name in servers if "ours" in servers else ():
            each = [r[load]["ours"]["requests_per_second"] / r[load][name]["requests_per_second"] for r in rounds]
            if name != "ours":
                found.setdefault(load, {})[name] = [min(each), max(each)]
    return found


def bars(summary: Summary) -> list[dict]:  # what is measured, its value, its bar, whether it holds
    "The project's own bars, as far as the servers they name were measured."
    found: list[dict] = []

    def add(what: str, value: float, sign: str, bar: float) -> None:
        holds = value >= bar if sign == ">=" else value <= bar if sign == "<=" else value < bar
        found.append({"what": what, "value": value, "bar": f"{sign} {bar:.4g}", "holds": holds})

    factor = ratios(summary)
    for load, least in LEAST.items():
        for name, bar in least.items():
            if name in factor.get(load, ()):
                add(f"{load}: ours / {name}, requests/s", factor[load][name], ">=", bar)
        servers = summary.get(load, {})
        for name in (n for n in LOWER_P99 if n in servers and "ours" in servers):
            add(
                f"{load}: p99 of ours below {name}'s, ms", servers["ours"]["p99_ms"][0], "<", servers[name]["p99_ms"][0]
            )
    if ours := summary.get("8 connections", {}).get("ours"):
        add("8 connections: p99 of ours, ms", ours["p99_ms"][0], "<=", 10)
        add("8 connections: RSS of the worker, MB", ours["worker_mb"][0], "<=", 300)
        if alone := summary["8 connections"].get("ours_unobserved"):
            add("8 connections: p99 with observer / without", ours["p99_ms"][0] / alone["p99_ms"][0], "<=", 1.2)
    return found


LOWER_P99 = ("fastapi_sklearn", "mlflow", "mlserver", "fastapi_onnx")
TEN = {"fastapi_sklearn": 10.0, "mlflow": 10.0, "mlserver": 10.0, "bentoml_asgi": 1.0}
LEAST = {
    "1 connection": TEN | {"fastapi_onnx": 1.0},
    "8 connections": TEN | {"fastapi_onnx": 1.2},
    "64 connections": TEN | {"fastapi_onnx": 1.2},
}
