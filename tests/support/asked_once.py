"""What a base model makes of rows, asked of a limited process once for the same model and the same rows.

Such a process costs 0.2 s of a core, and nearly every run of every test would start one for each of its models, to hear
what was answered before. What is remembered is what a real process answered; only what was answered wholly is, and only
for the very same template, settings, tokenizer and rows, byte by byte. test_limited.py and test_looking.py, the runs
started by commands and by servers, and whatever changes one of these, ask anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from oneseek.datasets import limited
from oneseek.datasets.scan import Scan
from oneseek.datasets.tokens import TOKENIZER
from oneseek.files.durable import sha256_bytes
from oneseek.preflight.looking import ANEW, Answers, Looking, Running

_answers: dict[str, list[Answers]] = {}


def judged(order: limited.Order, scans: Sequence[Scan], running: Running) -> list[Answers]:
    """In the place of `ANEW.judged`."""
    key = _key(order, scans)
    if key in _answers:
        return _answers[key]
    answers = Looking.judged(ANEW, order, scans, running)
    if sum(map(len, answers)) == 1 + len(order.prompts) + sum(len(scan.samples) for scan in scans):
        _answers[key] = answers
    return answers


def forget() -> None:
    _answers.clear()


def _key(order: limited.Order, scans: Sequence[Scan]) -> str:
    """Everything that the process is told, but for where the model is: its tokenizer is all that is read there."""
    tokenizer = Path(order.model.path) / TOKENIZER
    elsewhere = msgspec.structs.replace(order, model=msgspec.structs.replace(order.model, path=""))
    rows = [[(sample.line, sample.row) for sample in scan.samples] for scan in scans]
    told = sha256_bytes(msgspec.json.encode((elsewhere, rows)))
    return told + (sha256_bytes(tokenizer.read_bytes()) if tokenizer.is_file() else "")
