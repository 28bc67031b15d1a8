"""The journey of docs/api.md, run from its first line to its last in one shell, with a real server and real models."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from oneseek.demo import make
from oneseek.demo.families import MODELS
from oneseek.files.layout import Home
from support.ledger_service import allow_loopback
from support.pages import BLOCK, commands, missing_lines

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
PORT = "3001"
NEEDED = ("bash", "curl", "sed", "tar")
MISSING = [name for name in NEEDED if shutil.which(name) is None]
_END = "\x01"

pytestmark = [pytest.mark.engine, pytest.mark.skipif(bool(MISSING), reason=f"the page uses {', '.join(MISSING)}")]


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if found == kind]


def of_either(text: str) -> str:
    """A text without which of the two models it is about: here nothing decides who wins."""
    return re.sub("ekvik-(llama|qwen)-mini", "ekvik-mini", text)


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


@pytest.fixture(scope="module")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `oneseek demo` makes, with base models that learned next to nothing."""
    root = tmp_path_factory.mktemp("reader")
    home = Home(root / "oneseek-demo", root / "oneseek-demo" / "models")
    home.models.mkdir(parents=True)
    for model in MODELS[:2]:
        make.make_base_model(replace(model, steps=4), home.models / model.directory)
    make.write_dataset(home)
    return root


def run_in_one_shell(steps: list[str], where: Path) -> list[tuple[int, str]]:
    """Exit status and output of each command. Whatever they leave running is ended."""
    script = "".join(f"{step}\nprintf '{_END}%s{_END}' $?\n" for step in steps)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=where,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            printed, _ = shell.communicate(timeout=150)
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
    parts = printed.split(_END)
    return [(int(status), text) for text, status in zip(parts[::2], parts[1::2], strict=False)]


def test_the_journey_of_the_page_prints_what_it_says(demo_home: Path) -> None:
    allow_loopback()
    port = free_port()
    steps = [step for text in blocks("console") for step in commands(text.replace(PORT, port))]

    done = run_in_one_shell([command for command, _ in steps], demo_home)

    assert len(done) == len(steps)
    for (command, expected), (status, printed) in zip(steps, done, strict=True):
        assert (status, missing_lines(*map(of_either, (expected, printed)))) == (0, []), f"{command}\n{printed}"
        # Numbers are masked there, and these are what a reader goes by.
        assert re.findall(r"HTTP \d+", expected) == re.findall(r"HTTP \d+", printed), command
    told = [json.loads(line) for line in (demo_home / "events.jsonl").read_text().splitlines()]
    shown = json.loads(blocks("json")[0])
    assert set(shown) == set(next(event for event in told if event["type"] == "epoch_end"))
    token = re.compile(r"os[kls]_[\w-]{20,}")
    assert token.findall((demo_home / "log.jsonl").read_text()) == []
