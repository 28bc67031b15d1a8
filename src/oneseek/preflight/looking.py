"""How what is there is looked at: anew each time, or, for a form that asks at every key press, only what has changed.

What depends on files alone is remembered as long as they are the same; what the hub would be asked for, or what would
be written to find out, for a few seconds. A run that starts looks at everything anew.
"""

from __future__ import annotations

import copy
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from oneseek.datasets import limited
from oneseek.datasets.limited import PromptTokens, RowTokens, Traits
from oneseek.datasets.read import scan
from oneseek.datasets.scan import Scan
from oneseek.datasets.tokens import TOKENIZER
from oneseek.errors import ModelError
from oneseek.files.durable import sha256_bytes, sha256_file
from oneseek.files.remembered import Briefly, Remembered
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.discover import described, highest_token_id
from oneseek.registry.hub import describe_remote

BYTES: Final = 128 << 20
"""Of datasets that are remembered."""

ROWS: Final = 100_000
"""That models have judged."""

FILES: Final = 500

HUB_SECONDS: Final = 60.0
REFUSED_SECONDS: Final = 10.0
"""What the hub said last; a licence that was just accepted is to be seen soon."""

DISK_SECONDS: Final = 5.0

_ABOUT_THE_HUB: Final = ("HF_", "HUGGING", "TRANSFORMERS_")

Running = set[subprocess.Popen[bytes]]
Answers = tuple[limited.Answer, ...]


class Looking:
    """Anew each time. What is raised is what the functions of the same names raise."""

    def digest(self, path: Path) -> str:
        """SHA-256 of a file's bytes, in hex."""
        return sha256_file(path)

    def scan(self, path: Path, seed: int) -> Scan:
        return scan(path, seed=seed)

    def described(self, path: Path, name: str | None) -> ModelInfo:
        return described(path, name)

    def highest_token_id(self, path: Path) -> int | None:
        return highest_token_id(path)

    def describe_remote(self, hub_id: str) -> ModelInfo:
        return describe_remote(hub_id)

    def written(self, directory: Path, write: Callable[[Path], None]) -> None:
        """Try whether something can be written there."""
        write(directory)

    def judged(self, order: limited.Order, scans: Sequence[Scan], running: Running) -> list[Answers]:
        """What a model makes of the samples of each scan; before the first its traits and the prompts."""
        samples = ((sample.line, sample.row) for each in scans for sample in each.samples)
        answers = tuple(limited.judged(order, samples, running))
        begin = next((place for place, each in enumerate(answers) if isinstance(each, RowTokens)), len(answers))
        parts: list[Answers] = []
        for each in scans:
            end = begin + len(each.samples)
            parts.append(answers[begin:end] if parts else answers[:end])
            begin = end
        return parts


class Remembering(Looking):
    """Only at what has changed since. For one process, and all its threads."""

    def __init__(self) -> None:
        self._digests: Remembered[str] = Remembered(FILES)
        self._scans: Remembered[Scan] = Remembered(BYTES, _bytes)
        self._models: Remembered[ModelInfo] = Remembered(FILES)
        self._highest: Remembered[int | None] = Remembered(FILES)
        self._answers: Remembered[Answers] = Remembered(ROWS, _rows)
        self._remote: Briefly[ModelInfo | ModelError] = Briefly(_seconds)
        self._written: Briefly[None] = Briefly(lambda _: DISK_SECONDS)

    def digest(self, path: Path) -> str:
        return self._digests.get(path, (path,), lambda: sha256_file(path))

    def scan(self, path: Path, seed: int) -> Scan:
        return self._scans.get((path, seed), (path,), lambda: scan(path, seed=seed))

    def described(self, path: Path, name: str | None) -> ModelInfo:
        return self._models.get((path.absolute(), name), _files(path), lambda: described(path, name))

    def highest_token_id(self, path: Path) -> int | None:
        return self._highest.get(path, (path,), lambda: highest_token_id(path))

    def describe_remote(self, hub_id: str) -> ModelInfo:
        said = (item for item in os.environ.items() if item[0].startswith(_ABOUT_THE_HUB))
        found = self._remote.get((hub_id, *sorted(said)), lambda: _remote(hub_id))
        if isinstance(found, ModelError):
            raise copy.copy(found)  # who catches it may write it in their own words
        return found

    def written(self, directory: Path, write: Callable[[Path], None]) -> None:
        self._written.get(directory, lambda: write(directory))

    def judged(self, order: limited.Order, scans: Sequence[Scan], running: Running) -> list[Answers]:
        """Rows are remembered apart from prompts, which are typed: another prompt is no reason to count them again. How
        long a row may be is no part of what is remembered of it."""
        parts: list[Answers] = []
        rows = msgspec.structs.replace(order, prompts={})
        for each in scans:
            lines = sha256_bytes(msgspec.json.encode([sample.line for sample in each.samples]))
            said = self._judged(rows, (each,), running, each.sha256, each.container, lines)
            parts.append(said if not parts else tuple(answer for answer in said if isinstance(answer, RowTokens)))
        if order.prompts and isinstance(parts[0][0], Traits):
            first, *others = parts[0]
            asked = self._judged(order, (), running, tuple(order.prompts.items()))
            parts[0] = (first, *(answer for answer in asked if isinstance(answer, PromptTokens)), *others)
        return parts

    def _judged(self, order: limited.Order, scans: Sequence[Scan], running: Running, *about: object) -> Answers:
        tokenizer = Path(order.model.path) / TOKENIZER
        key = sha256_bytes(msgspec.json.encode(order.model)), order.format, *about
        samples = [(sample.line, sample.row) for each in scans for sample in each.samples]
        wanted = len(samples) + len(order.prompts)

        def ask() -> Answers:
            answers = tuple(limited.judged(order, samples, running))
            return answers if _lasting(answers, wanted) else _Fleeting(answers)

        return self._answers.get(key, (tokenizer,), ask)


class _Fleeting(tuple[limited.Answer, ...]):
    """What the next process may answer otherwise: this one was killed, for want of memory or by somebody."""

    __slots__ = ()


def _lasting(answers: Answers, wanted: int) -> bool:
    """Whether all that was wanted was answered, or the rest would take too much time again."""
    last = answers[-1] if answers else None
    return len(answers) == 1 + wanted or getattr(last, "fix", None) == limited.MEND


def _rows(answers: Answers) -> int | None:
    return None if isinstance(answers, _Fleeting) else len(answers)


def _bytes(found: Scan) -> int:
    """Roughly: rows as Python holds them take several times what they take as JSON."""
    samples = sum(len(msgspec.json.encode(sample.row)) for sample in found.samples)
    return found.digests.nbytes + found.lines.nbytes + 5 * samples


def _files(directory: Path) -> list[Path]:
    """Everything that a model's directory is read from, itself included: what is added or removed is seen."""
    try:
        return [directory, *sorted(Path(entry) for entry in os.scandir(directory))]
    except OSError:
        return [directory]


def _remote(hub_id: str) -> ModelInfo | ModelError:
    try:
        return describe_remote(hub_id)
    except ModelError as error:
        return error


def _seconds(found: ModelInfo | ModelError) -> float:
    return REFUSED_SECONDS if isinstance(found, ModelError) else HUB_SECONDS


ANEW: Final = Looking()
