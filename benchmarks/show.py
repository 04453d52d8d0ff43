"""Tables on the terminal and a plot in a file."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.results import Summary, ratios

CONSOLE = Console(width=150, highlight=False)
COLUMNS = {
    "requests/s": ("requests_per_second", "{:,.0f}"),
    "rows/s": ("rows_per_second", "{:,.0f}"),
    "p50 ms": ("p50_ms", "{:.2f}"),
    "p99 ms": ("p99_ms", "{:.2f}"),
    "CPU µs/request": ("cpu_us", "{:,.0f}"),
    "RSS MB": ("rss_mb", "{:.0f}"),
    "observer CPU µs, lag s": ("beside", ""),
    "errors": ("errors", "{:.0f}"),
    "server CPU": ("server_cpu", "{:.0%}"),
    "client CPU": ("client_cpu", "{:.0%}"),
}
NO_MODEL = ("bentoml_asgi", "door_empty", "uvicorn_empty")
SPREAD = ("requests_per_second", "p99_ms")
OWN, OTHER, FLOOR = "#0072B2", "#D55E00", "#8A8F98"


def plain_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    "A table with its first column to the left and figures to the right."
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    CONSOLE.print(table)


def cell(measure: str, form: str, value: list[float]) -> str:
    "A median, with lowest and highest where the spread matters."
    middle, low, high = map(form.format, value)
    return f"{middle} ({low}–{high})" if measure in SPREAD and low != high else middle


def observer(measures: dict[str, list[float]]) -> str:
    "What the process beside the server took for a request, and how far behind it was."
    cpu, lag = measures["beside_cpu_us"][0], measures["lag_seconds"][0]
    return f"{cpu:,.0f}, {lag:.1f}" if cpu else ""


def measured(summary: Summary, spread: dict[str, dict[str, list[float]]]) -> None:
    "Every measure of every server, load by load; then how many times the others' rate ours is."
    for load, servers in summary.items():
        rows = [
            [name, *(cell(m, form, s[m]) if form else observer(s) for m, form in COLUMNS.values())]
            for name, s in servers.items()
        ]
        plain_table(load, ["server", *COLUMNS], rows)
    factors, by_cpu = ratios(summary), ratios(summary, "per_cpu_second")
    names = list(next(iter(factors.values()), ()))
    if names:
        rows = [[name, *(_ratio(f[name], spread[load][name]) for load, f in factors.items())] for name in names]
        plain_table(
            "ours / other, requests/s: ratio of medians (lowest–highest within a round)", ["other", *factors], rows
        )
        rows = [[name, *(f"{f[name]:.2f}" for f in by_cpu.values())] for name in names]
        plain_table("ours / other, requests per CPU second: ratio of medians", ["other", *by_cpu], rows)


def _ratio(value: float, spread: list[float]) -> str:
    low, high = (f"{v:.2f}" for v in spread)
    return f"{value:.2f} ({low}–{high})" if low != high else f"{value:.2f}"


def against_bars(bars: list[dict]) -> None:
    "Which bars hold."
    rows = [[b["what"], f"{b['value']:.2f}", b["bar"], "holds" if b["holds"] else "FALLS SHORT"] for b in bars]
    plain_table("bars", ["what", "measured", "bar", ""], rows)


def plot(summary: Summary, path: Path) -> None:
    "Requests a second of every server, a panel for each load, on a logarithmic scale."
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(summary), figsize=(3.6 * len(summary) + 1, 0.36 * len(next(iter(summary.values()))) + 1.3),
        dpi=110, layout="constrained", sharey=True, squeeze=False,
    )  # fmt: skip
    for axes, (load, servers) in zip(panels[0], summary.items()):
        names, rates = list(servers), [s["requests_per_second"] for s in servers.values()]
        middle = [r[0] for r in rates]
        spread = [[r[0] - r[1] for r in rates], [r[2] - r[0] for r in rates]]
        colours = [OWN if n.startswith("ours") else FLOOR if n in NO_MODEL else OTHER for n in names]
        axes.barh(names, middle, xerr=spread, color=colours, ecolor="#444444", error_kw={"lw": 0.8})
        for y, value in enumerate(middle):
            axes.annotate(
                f"{value:,.0f}", (rates[y][2], y), xytext=(4, 0), textcoords="offset points", va="center", size=8
            )
        axes.set_xscale("log")
        axes.set_xlim(min(middle) / 2, max(middle) * 4)
        axes.set_title(load, loc="left", size=10)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("requests/s, log scale", size=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].invert_yaxis()
    figure.savefig(path)
    plt.close(figure)


def plot_soak(phases: dict[str, list[dict]], capacity: float, path: Path) -> None:
    "Requests by outcome, time of the accepted ones, and memory, second by second."
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    entries = [s for seconds in phases.values() for s in seconds]
    at = range(len(entries))
    figure, (rates, times, memory) = plt.subplots(3, 1, figsize=(9, 7), sharex=True, layout="constrained", dpi=110)
    for key, colour in (("200", OWN), ("503", OTHER), ("no connection", FLOOR)):
        rates.plot(at, [s.get(key, 0) for s in entries], color=colour, lw=1, label=WORDS[key])
    rates.axhline(capacity, color="#444444", lw=0.8, ls=":", label="capacity")
    rates.set_title("requests a second", loc="left", size=10)
    rates.legend(frameon=False, fontsize=8)
    times.plot(at, [s["p99_ms"] for s in entries], color=OWN, lw=1)
    times.set_yscale("log")
    times.set_title("p99 of the answered, ms, log scale", loc="left", size=10)
    memory.plot(at, [s["rss_mb"] for s in entries], color=OWN, lw=1)
    memory.set_title("resident memory of worker and supervisor, MB", loc="left", size=10)
    memory.set_xlabel("second", size=8)
    begin = 0
    for axes in (rates, times, memory):
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    rates.set_ylim(bottom=0)
    memory.set_ylim(0, 1.1 * max(s["rss_mb"] for s in entries))
    for name, seconds in phases.items():
        for axes in (rates, times, memory):
            axes.axvline(begin, color=FLOOR, lw=0.6)
        memory.annotate(name, (begin, 0), xytext=(4, 6), textcoords="offset points", size=8)
        begin += len(seconds)
    figure.savefig(path)
    plt.close(figure)


WORDS = {"200": "answered", "503": "refused with 503", "no connection": "not sent: every connection waits"}
PROGRESS = Console(stderr=True)
