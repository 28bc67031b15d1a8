"""Kill a writer at any time: the ledger opens, is whole, and has every entry that was acknowledged at its index."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def storm(root: Path, kills: int, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "support.ledger_storm", str(root), str(kills), str(seed)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=3000, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    left: dict[str, Any] = json.loads(done.stdout)
    assert left["killed"] >= kills
    assert left["told"] > kills / 2  # else they died before they had acknowledged anything
    return left


@pytest.mark.parametrize("seed", range(2))
def test_no_acknowledged_entry_is_lost_in_hundreds_of_kills(tmp_path: Path, seed: int) -> None:
    left = storm(tmp_path, 100, seed)

    assert (left["wrong"], left["temporary"]) == ([], [])


@pytest.mark.soak
def test_no_acknowledged_entry_is_lost_in_thousands_of_kills(tmp_path: Path) -> None:
    left = storm(tmp_path, 5000, int(time.time()))

    assert (left["wrong"], left["temporary"]) == ([], [])
