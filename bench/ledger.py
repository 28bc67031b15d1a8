"""What the ledger on this machine takes: `python bench/ledger.py [--entries 100000] [--json]`.

Entries are appended one by one (a thousand only: each waits for the disk), in batches of 1,000 and of 100. In the log
of the last, a thousand drawn entries are proved, each proof is checked, and the whole log is audited. Times are of the
wall clock and, beside it, of the processor, which others may be using too.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from compare import say
from goals import Goal

from oneseek.ledger import proof
from oneseek.ledger.audit import audit
from oneseek.ledger.entry import Statement, encode
from oneseek.ledger.note import SignerKey
from oneseek.ledger.store import Store

KEY = SignerKey("oneseek-ledger/bench", bytes(32))
SINGLE, PROOFS = 1000, 1000


@dataclass(frozen=True)
class Timed:
    """Milliseconds of each operation; `bound` is the most that the goal allows, None where there is none."""

    what: str
    operations: int
    wall: float
    cpu: float
    bound: float | None = None

    @property
    def cells(self) -> str:
        goal = Goal(what=self.what, bound=self.bound or 0, side="at most", values=[self.wall], unit="ms")
        judged = f"{goal.cells[1]} | {goal.verdict}" if self.bound else "| "
        return f"| {self.what} | {self.operations:,} | {self.wall:,.3f} | {self.cpu:,.3f} | {judged} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print("| operation | times | ms each | ms of processor each | goal | |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for found in measured(Path(scratch), options.entries):
            print(json.dumps(asdict(found)) if options.json else found.cells, flush=True)


def measured(scratch: Path, count: int) -> Iterator[Timed]:
    say(f"{count:,} statements")
    said = [statement(number) for number in range(count)]
    yield appended(scratch / "single", "append one by one", said[:SINGLE], 1, None)
    yield appended(scratch / "thousands", "append in batches of 1,000", said, 1000, 1.0)
    yield appended(scratch / "hundreds", "append in batches of 100", said, 100, 1.0)
    with closing(opened(scratch / "hundreds")) as log:
        yield proved(log, count)
        clock = Clock()
        found = audit(log)
        yield clock.timed(f"audit of all {found.entries:,} entries and {found.checkpoints:,} checkpoints", 1, 2000.0)


def appended(directory: Path, what: str, statements: list[bytes], batch: int, bound: float | None) -> Timed:
    with closing(opened(directory)) as log:
        clock = Clock()
        for start in range(0, len(statements), batch):
            log.append(statements[start : start + batch])
        return clock.timed(what, len(statements), bound)


def proved(log: Store, count: int) -> Timed:
    """Of drawn entries; the checks of the proofs are not timed."""
    draw = random.Random(0)
    indices = [draw.randrange(count) for _ in range(PROOFS)]
    clock = Clock()
    found = [log.prove(index) for index in indices]
    timed = clock.timed("proof of an entry", PROOFS, 1.0)
    for logged in found:
        proof.check(logged.proof, logged.entry, KEY.verifier)
    return timed


class Clock:
    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def timed(self, what: str, operations: int, bound: float | None) -> Timed:
        """What has passed, per operation."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return Timed(what, operations, 1000 * wall / operations, 1000 * cpu / operations, bound)


def opened(directory: Path) -> Store:
    return Store.open(directory / "ledger.db", KEY, directory / "log.checkpoint")


def statement(number: int) -> bytes:
    return encode(
        Statement(
            run_id=f"run-20261121-{number:06}",
            dna="OneSeek-7B-Zero.v1.0.01234567.89abcdef.01234567",
            base_models=("kb-llama-3-1-8b-swedish", "mistral-7b"),
            final_weights={"kb-llama-3-1-8b-swedish": 0.75, "mistral-7b": 0.25},
            manifest_sha256=f"{number:064x}",
        )
    )


if __name__ == "__main__":
    main()
