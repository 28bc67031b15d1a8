"""The figures as a page, a printed table and plots."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from compare import OURS, Comparison, median
from experiments import Point
from goals import Goal
from peers import LIBRARIES

from oneseek.engine.machine import processor_name

GOAL_HEADER = ("What", "Goal", "Median", "Smallest and largest", "", "Note")
SIDE_HEADER = (
    "Case",
    "Side",
    "Tokens/s",
    "Tokens/CPU-s",
    "Share of GEMM",
    "Peak memory",
    "To first step",
    "OneSeek faster by",
    "Losses",
)


@dataclass(frozen=True)
class Results:
    """Everything that one run of the benchmark found. `environments` says what is installed with a peer that has an
    environment of its own, `absent` what could not be measured, and why."""

    at: datetime
    instructions: str
    goals: Sequence[Goal]
    comparisons: Sequence[Comparison]
    environments: Mapping[str, str]
    other: Mapping[str, Any]
    curves: Mapping[str, Sequence[Point]]
    absent: Sequence[str]

    @property
    def name(self) -> str:
        """Of the file of results: the day, and the kind of machine."""
        return f"{self.at:%Y-%m-%d}-{os.cpu_count()}-cores-{self.instructions.lower()}"

    def as_json(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(timespec="seconds"),
            "machine": machine(self.instructions),
            "goals": [goal.as_json() for goal in self.goals],
            "comparisons": {each.name: each.as_json() for each in self.comparisons},
            "environments": dict(self.environments),
            "other": self.other,
            "curves": {axis: [asdict(point) for point in points] for axis, points in self.curves.items()},
            "not_measured": list(self.absent),
        }


def machine(instructions: str) -> dict[str, str]:
    """What the figures depend on, without a name or a path."""
    return {
        "processor": processor_name(),
        "instructions": instructions,
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


# -- tables --------------------------------------------------------------------------------------------------------


def printed(results: Results) -> str:
    parts = [aligned([GOAL_HEADER, *(goal.cells for goal in results.goals)]), aligned(side_rows(results))]
    return "\n\n".join([*parts, *(f"Not measured: {what}" for what in results.absent)])


def side_rows(results: Results) -> list[tuple[str, ...]]:
    """A row for each side of each case; medians of the rounds."""
    return [SIDE_HEADER, *(_side(each, name) for each in results.comparisons for name in each.rounds[0].sides)]


def _side(comparison: Comparison, name: str) -> tuple[str, ...]:
    def middle(figure: str) -> float:
        return median(comparison.values(name, figure))

    supervised = comparison.case.method == "sft"
    return (
        comparison.name,
        name,
        f"{middle('tokens_per_second'):,.0f}",
        f"{middle('tokens_per_cpu_second'):,.0f}",
        f"{100 * median(comparison.gemm_shares(name)):.0f} %" if supervised else "",
        f"{middle('peak_rss') / 1e9:.2f} GB",
        f"{middle('started'):.1f} s",
        "" if name == OURS.name else _faster(comparison.ratios(name, "tokens_per_second")),
        "" if name == OURS.name else f"differ by {comparison.loss_difference(name):.0e} at most",
    )


def _faster(ratios: Sequence[float]) -> str:
    if not ratios:
        return "not comparable"
    return f"{median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"


def aligned(rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def markdown(rows: Iterable[Sequence[str]]) -> str:
    header, *rest = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rest))


# -- the page ------------------------------------------------------------------------------------------------------


def page(results: Results) -> str:
    about = ", ".join(f"{what} {value}" for what, value in machine(results.instructions).items())
    listed = "".join(f"\n- {peer}: {versions}" for peer, versions in results.environments.items())
    environments = listed and "\n" + listed
    absent = "\n".join(f"- {what}" for what in results.absent) or "- nothing"
    return f"""\
# Performance

Made by `make bench` on {results.at:%Y-%m-%d}; the raw figures are in `bench/results/{results.name}.json`.

Machine: {about}.

{markdown([GOAL_HEADER, *(goal.cells for goal in results.goals)])}

## Against peers

![Tokens a second and peak memory, OneSeek and its peers](performance/comparison.svg)

{markdown(side_rows(results))}

Every side trains the same rows in the same batches and in the same order, from the same adapter, in fp32, with the same
constant learning rate, without gradient checkpointing and without packing of the peers' kind, which would change the
batches. Losses are compared step by step; a ratio is given only where they agree (to 1e-4 nats in supervised
fine-tuning, 5e-4 in DPO). Each side is a process of its own. The sides take turns, and a ratio is of two processes of
one round, because the speed of a shared machine drifts. The first step of supervised fine-tuning is not timed. DPO is
timed over three epochs, from the first reference log-probability to the last step, with everything that we do between
epochs; its tokens are those of both answers with their prompt. TRL is installed beside OneSeek; LLaMA-Factory and
Unsloth each train with the libraries of their own environment.{environments}

The share of the GEMM peak is the arithmetic that a step can't do without, divided by its time and by the rate at which
the same machine does the frozen layers' matrix products and nothing else, measured just after. A step of T tokens costs
4 T for each frozen parameter of a linear layer (forward, and backward with respect to activations only), 6 T for each
parameter of LoRA, 6 hidden n² for each layer and row of n tokens (causal attention), and 4 hidden vocabulary for each
learned token (the head). Models have random weights: tiny is a Llama of 7 M parameters (hidden 256, 8 layers,
vocabulary 4,096), small has the shape of SmolLM2-135M. Rows are as long as chats are: 151 tokens in the middle, 507 at
most, two fifths of them learned.

## How OneSeek scales

![Tokens a second and peak memory against size, length, batch and number of models](performance/curves.svg)

Two threads, a model of 7 M parameters, rows of 128 tokens, 8 rows a step, unless the axis says otherwise. Against the
number of models: one run of all of them, tokens of all over the time of the epochs, and the memory of all workers.

## Not measured

{absent}
"""


# -- plots ---------------------------------------------------------------------------------------------------------


def plot(results: Results, directory: Path) -> None:
    """`comparison.svg` and `curves.svg`; the same figures give the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "oneseek", "font.size": 9, "axes.spines.top": False})
    directory.mkdir(parents=True, exist_ok=True)
    _plot_comparison(results.comparisons, directory / "comparison.svg")
    _plot_curves(results.curves, directory / "curves.svg")


def _plot_comparison(comparisons: Sequence[Comparison], path: Path) -> None:
    from matplotlib import pyplot

    figures = (("tokens_per_second", "tokens/s", 1.0), ("peak_rss", "peak memory, GB", 1e-9))
    figure, axes = pyplot.subplots(len(figures), len(comparisons), figsize=(3.6 * len(comparisons), 4.4), squeeze=False)
    for row, (name, label, scale) in zip(axes, figures, strict=True):
        for axis, comparison in zip(row, comparisons, strict=True):
            sides = list(comparison.rounds[0].sides)
            values = [scale * median(comparison.values(side, name)) for side in sides]
            colours = ["tab:blue" if side == OURS.name else "tab:gray" for side in sides]
            axis.barh([side.replace(", ", ",\n") for side in sides], values, color=colours)
            axis.invert_yaxis()  # the first side on top
            axis.set_title(comparison.name)
            axis.set_xlabel(label)
    _save(figure, path)


def _plot_curves(curves: Mapping[str, Sequence[Point]], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(curves), figsize=(3 * len(curves), 4.4), squeeze=False)
    for column, (name, points) in enumerate(curves.items()):
        x = [point.x for point in points]
        speed, memory = axes[0][column], axes[1][column]
        speed.plot(x, [point.tokens_per_second for point in points], marker="o")
        memory.plot(x, [point.peak_rss / 1e9 for point in points], marker="o", color="tab:orange")
        for axis, label in ((speed, "tokens/s"), (memory, "peak memory, GB")):
            axis.set_ylabel(label)
            axis.set_ylim(bottom=0)
        memory.set_xlabel(name)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
