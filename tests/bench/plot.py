"""The plot beside the table."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.bench.calls import MEMORY, REDIS, Costs
from tests.bench.fleet import MOST, Fleet
from tests.bench.peers import CONTEXT, DECORATED, PEERS, REJECTED
from tests.bench.scaling import rates

_COLOURS = {MEMORY: "#9aa5b1", REDIS: "#1f6feb"}
_FORMS = (DECORATED, CONTEXT, REJECTED)


def draw(calls: Costs, fleet: Fleet, path: Path) -> None:
    """Draw costs by library, and commands a second by size of the fleet."""
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["svg.hashsalt"] = "commontrip"
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    axes = figure.subplots(1, len(_FORMS) + 1, gridspec_kw={"width_ratios": [1, 1, 1, 1.3]})
    for ax, form in zip(axes, _FORMS, strict=False):
        _bars(ax, calls, form)
    axes[0].set_yticks(range(len(PEERS)), list(PEERS))
    _fleet(axes[-1], fleet)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _bars(ax: Any, calls: Costs, form: str) -> None:
    for offset, store in ((-0.2, MEMORY), (0.2, REDIS)):
        costs = [calls.over.get((peer, store, form)) for peer in PEERS]
        places = [(at + offset, cost) for at, cost in enumerate(costs) if cost is not None]
        bars = ax.barh(*zip(*places, strict=True), height=0.38, color=_COLOURS[store], label=store)
        ax.bar_label(bars, fmt=lambda cost: f"{cost:.2g}" if cost < 10 else f"{cost:.0f}", padding=2, fontsize=8)
    ax.set_xscale("log")
    ax.set_xlim(0.05, 3000)
    ax.set_yticks(range(len(PEERS)), [""] * len(PEERS))
    ax.set_ylim(len(PEERS) - 0.5, -0.5)
    ax.minorticks_off()
    ax.set_title(f"{form}, µs over the bare call", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)


def _fleet(ax: Any, fleet: Fleet) -> None:
    sizes = [round(10 ** (exponent / 20)) for exponent in range(20, 81)]
    ax.plot(sizes, [sum(rates(size).values()) for size in sizes], color=_COLOURS[REDIS], label="commontrip, model")
    measured = [(one.replicas, one.rate) for one in (fleet.usual, fleet.great)]
    ax.plot(*zip(*measured, strict=True), "o", color=_COLOURS[REDIS], label="commontrip, measured")
    calls = [20.0 * size for size in sizes]
    ax.plot(sizes, calls, "--", color=_COLOURS[MEMORY], label="2 commands a call, 10 calls a second")
    ax.axhline(MOST, color="#d1242f", linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("replicas under load")
    ax.set_title("commands to Redis a second, whole fleet", fontsize=9)
    ax.legend(fontsize=7, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
