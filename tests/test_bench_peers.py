"""Peers that live in environments of their own: who takes part, and what is told of one that doesn't."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import compare
import pytest
from case import Case, Given
from compare import BENCH, OURS, Comparison, Side
from peers import ELSEWHERE, find
from shapes import TINY

LLAMA_FACTORY, UNSLOTH = (peer.variable for peer in ELSEWHERE)
TRAINS = """
import json, sys
case, marks, _ = sys.argv[1:]
with open(marks, "w") as file:
    for loss in {losses}:
        file.write(json.dumps({{"at": 1.0, "cpu": 1.0, "peak_rss": 1, "loss": loss}}) + "\\n")
"""
FAILS = "raise SystemExit('loading the model\\nno room for it')"
FAILS_LATER = f"""
import pathlib
before = pathlib.Path(__file__ + ".ran")
if before.exists():
    {FAILS}
before.touch()
{TRAINS.format(losses=[None, 2.0, 3.0])}
"""


def test_a_peer_that_no_python_is_named_for_is_told_with_what_makes_it_measurable() -> None:
    found = find({UNSLOTH: ""})

    assert not found.sides
    assert [LLAMA_FACTORY in found.absent[0], UNSLOTH in found.absent[1]] == [True, True]


def test_a_python_without_the_peer_is_told_in_its_own_words() -> None:
    found = find({UNSLOTH: sys.executable})

    assert not found.sides
    assert "Unsloth: importlib.metadata.PackageNotFoundError: No package metadata was found for unsloth" in found.absent


def test_a_python_that_is_not_there_is_told(tmp_path: Path) -> None:
    found = find({UNSLOTH: str(tmp_path / "python")})

    assert not found.sides
    assert "No such file" in found.absent[1]


def test_the_scripts_of_peers_are_read_without_any_package() -> None:
    command = [sys.executable, "-S", "-c", "import llamafactory_peer, trl_peer, unsloth_peer, versions"]

    done = subprocess.run(command, cwd=BENCH, capture_output=True, text=True, check=False)

    assert done.stderr == ""


@pytest.mark.parametrize(
    ("script", "told"),
    [
        pytest.param(FAILS, "no room for it", id="it fails"),
        pytest.param(FAILS_LATER, "no room for it", id="it fails in the second round"),
        pytest.param(
            TRAINS.format(losses=[None, 2.0]), "did 1 optimiser steps where the case has 2", id="a step short"
        ),
        pytest.param("", "did 0 optimiser steps where the case has 2", id="no marks"),
    ],
)
def test_a_peer_elsewhere_that_does_not_train_is_told_and_left_out(
    script: str, told: str, compared: Callable[..., Comparison]
) -> None:
    comparison = compared(script, python=sys.executable)

    assert told in comparison.failed["Peer"]
    assert [list(each.sides) for each in comparison.rounds] == [["OneSeek"], ["OneSeek"]]


def test_a_peer_elsewhere_that_trains_is_compared(compared: Callable[..., Comparison]) -> None:
    comparison = compared(TRAINS.format(losses=[None, 2.0, 3.0]), python=sys.executable)

    assert not comparison.failed
    assert comparison.ratios("Peer", "peak_rss") == [1.0, 1.0]


def test_a_peer_of_our_own_environment_that_fails_ends_the_benchmark(compared: Callable[..., Comparison]) -> None:
    with pytest.raises(RuntimeError, match="no room for it"):
        compared(FAILS, python=None)


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Comparison]:
    """Two rounds of ours, played by a script, and of a peer, on two steps of one row."""
    (tmp_path / "ours.py").write_text(TRAINS.format(losses=[None, 2.0, 3.0]))
    rows = [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}] * 2
    case = Case(
        model="",
        dataset="",
        format="prompt_completion",
        directory=str(tmp_path / "work"),
        given=str(tmp_path / "given"),
        threads=1,
        batch_size=1,
    )
    run = compare.run_script

    def run_script(command: Sequence[str], threads: int | None = None) -> str:
        if command[1:3] == ["ours.py", "give"]:
            Given(rows, [[0, 1]], adapter="").write(Path(case.given))
            return ""
        if command[1] == "gemm.py":
            return json.dumps({"flops_per_second": 1.0})
        return run(command, threads)

    def compared(script: str, python: str | None) -> Comparison:
        peer = tmp_path / "peer.py"
        peer.write_text(script)
        return compare.compare("SFT", case, TINY, [Side("Peer", str(peer), python)], rounds=2, warm_up=1)

    monkeypatch.setattr(compare, "OURS", Side(OURS.name, str(tmp_path / "ours.py")))
    monkeypatch.setattr(compare, "run_script", run_script)
    return compared
