"""`make bench`: OneSeek against its goals and its peers, on the machine that it runs on.

Without options it takes about twenty minutes on two cores and writes bench/results/<day>-<machine>.json,
docs/performance.md and the plots in docs/performance/. With --quick every part is run once and small, in about three
minutes, and only printed: such figures say that the benchmark works, and nothing else. --into DIRECTORY writes there
instead.

TRL is installed beside us. LLaMA-Factory and Unsloth want other versions of the same libraries; each takes part when
ONESEEK_BENCH_LLAMAFACTORY_PYTHON or ONESEEK_BENCH_UNSLOTH_PYTHON names the Python of an environment that has it, and
adds about five minutes. Such an environment should hold the same torch, `pip install -c constraints.txt torch`, before
the peer is installed into it. The torchaudio that LLaMA-Factory imports, for sound only, wants CUDA; beside a torch
without, it loads once its compiled files (torchaudio/lib/*.so) are deleted, and the report says that they are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import experiments
import peers
from compare import OURS, Comparison, Side, gemm, median, say
from experiments import Point, Together, Workshop
from goals import Goal
from peers import TRL, TRL_PRECOMPUTED
from report import Results, page, plot, printed
from shapes import SMALL, TINY

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is measured. Steps are those of an epoch."""

    rounds: int
    repeats: int
    tiny_steps: int
    small_rounds: int
    small_steps: int
    small_batch: int
    dpo_steps: int
    run_rounds: int
    run_steps: int
    overhead_steps: int
    overhead_batch: int
    rows: int
    curve_steps: int
    curve_points: int


FULL = Extent(
    rounds=3,
    repeats=5,
    tiny_steps=8,
    small_rounds=2,
    small_steps=2,
    small_batch=8,
    dpo_steps=5,
    run_rounds=1,
    run_steps=8,
    overhead_steps=20,
    overhead_batch=16,
    rows=100_000,
    curve_steps=4,
    curve_points=4,
)
QUICK = Extent(
    rounds=1,
    repeats=1,
    tiny_steps=2,
    small_rounds=1,
    small_steps=2,
    small_batch=1,
    dpo_steps=1,
    run_rounds=1,
    run_steps=1,
    overhead_steps=2,
    overhead_batch=8,
    rows=10_000,
    curve_steps=2,
    curve_points=1,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--into", type=Path, metavar="DIRECTORY")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        results = bench(Workshop(Path(scratch)), QUICK if options.quick else FULL)
    if into := options.into or (None if options.quick else REPOSITORY):
        write(results, into)
    print(printed(results))
    say(f"{(time.monotonic() - began) / 60:.1f} minutes")


def bench(shop: Workshop, extent: Extent) -> Results:
    elsewhere = peers.find(os.environ)
    others = elsewhere.sides
    tiny = experiments.sft(shop, TINY, (TRL, *others), threads=2, rounds=extent.rounds, steps=extent.tiny_steps)
    small = experiments.sft(
        shop,
        SMALL,
        (TRL, *others),
        threads=1,
        rounds=extent.small_rounds,
        steps=extent.small_steps,
        batch=extent.small_batch,
    )
    dpo = experiments.dpo(
        shop, (TRL, TRL_PRECOMPUTED, *others), threads=2, rounds=extent.rounds, steps=extent.dpo_steps
    )
    trios = [experiments.together(shop, steps=extent.run_steps) for _ in range(extent.run_rounds)]
    two = experiments.pair(shop, steps=extent.run_steps)
    growing = enumerate((trios[0].alone[0], two, trios[0].together), 1)
    share, step_seconds = experiments.overhead(shop, steps=extent.overhead_steps, batch=extent.overhead_batch)
    rows, many = (experiments.chat_rows(shop, count) for count in (extent.rows, 10 * extent.rows))
    requests = [experiments.inspect(shop, rows) for _ in range(extent.rounds)]
    reading = [experiments.read(many) for _ in range(extent.rounds)]
    growth = (reading[0]["peak_rss"] - experiments.read(rows)["peak_rss"]) / (9 * extent.rows)
    curves = experiments.curves(shop, steps=extent.curve_steps, points=extent.curve_points)
    goals = [
        *training_goals(tiny, faster=3, memory=0.4, share=0.55),
        *training_goals(small, faster=4, memory=0.25, share=0.8),
        against(dpo, TRL, "tokens_per_second", "faster than TRL", 5),
        together_goal(trios),
        Goal(
            what="Process start to the end of the first optimiser step, `oneseek.train`, tiny",
            bound=6,
            side="at most",
            values=[experiments.start_up(shop) for _ in range(extent.rounds)],
            unit="s",
            stretch=True,
            note=f"TRL, rows tokenised already: {median(tiny.values(TRL.name, 'started')):.1f} s",
        ),
        Goal(
            what="Overhead of a run: what is no step",
            bound=0.02,
            side="at most",
            values=[share],
            unit="%",
            note=f"steps of {step_seconds:.2f} s",
        ),
        Goal(
            what="`oneseek --help`",
            bound=0.3,
            side="at most",
            values=[experiments.help_seconds() for _ in range(extent.repeats)],
            unit="s",
        ),
        *request_goals(requests, extent.rows),
        Goal(
            what="Chat rows validated in a CPU-second",
            bound=100_000,
            side="at least",
            values=[found["rows_per_cpu_second"] for found in reading],
            unit="rows",
        ),
        Goal(
            what="Memory that each further chat row takes while it is validated",
            bound=16,
            side="at most",
            values=[growth],
            unit="B",
            note=f"{10 * extent.rows:,} rows over {extent.rows:,}; 8 tell duplicates, 4 are its line",
        ),
    ]
    return Results(
        at=datetime.now(UTC),
        instructions=gemm(TINY, 1, 64)["instructions"],
        goals=goals,
        comparisons=(tiny, small, dpo),
        environments=elsewhere.versions,
        other={
            "together": [asdict(trio) for trio in trios],
            "two_models": asdict(two),
            "requests": requests,
            "reading": reading,
        },
        curves={**curves, "models in a run": [Point(n, run.tokens_per_second, run.peak_rss) for n, run in growing]},
        absent=[*elsewhere.absent, *failures((tiny, small, dpo))],
    )


def failures(comparisons: Sequence[Comparison]) -> list[str]:
    return [f"{name}, {each.name}: {why}" for each in comparisons for name, why in each.failed.items()]


def write(results: Results, into: Path) -> None:
    raw = into / "bench" / "results" / f"{results.name}.json"
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_text(json.dumps(results.as_json(), indent=1) + "\n")
    plot(results, into / "docs" / "performance")
    (into / "docs" / "performance.md").write_text(page(results))


# -- goals ---------------------------------------------------------------------------------------------------------


def training_goals(comparison: Comparison, *, faster: float, memory: float, share: float) -> list[Goal]:
    return [
        against(comparison, TRL, "tokens_per_second", "faster than TRL", faster),
        against(comparison, TRL, "peak_rss", "peak memory over TRL's", memory),
        Goal(
            what=f"{comparison.name}, share of the GEMM peak",
            bound=share,
            side="at least",
            values=comparison.gemm_shares(OURS.name),
            unit="%",
            stretch=True,
        ),
    ]


def against(comparison: Comparison, peer: Side, figure: str, words: str, bound: float) -> Goal:
    return Goal(
        what=f"{comparison.name}, {words}",
        bound=bound,
        side="at most" if figure == "peak_rss" else "at least",
        values=comparison.ratios(peer.name, figure),
        note=f"losses differ by {comparison.loss_difference(peer.name):.0e} nats at most",
    )


def together_goal(trios: Sequence[Together]) -> Goal:
    training = median([trio.training_ratio for trio in trios])
    return Goal(
        what="Three models in one run over one after the other",
        bound=1.6,
        side="at least",
        values=[trio.ratio for trio in trios],
        note=f"whole runs; their epochs alone: {training:.2f} x",
    )


def request_goals(requests: Sequence[dict[str, Any]], rows: int) -> list[Goal]:
    what = f"Checking a request of three models and {rows:,} chat rows"
    return [
        Goal(what=f"{what}: time", bound=4, side="at most", values=[each["seconds"] for each in requests], unit="s"),
        Goal(
            what=f"{what}: memory of all its processes",
            bound=150,
            side="at most",
            values=[each["peak_memory"] / 1e6 for each in requests],
            unit="MB",
            note="torch is imported" if any(each["torch_imported"] for each in requests) else "torch is not imported",
        ),
    ]


if __name__ == "__main__":
    main()
