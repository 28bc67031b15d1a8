"""Every `console` and `python` block of README and docs is run, and prints what it says.

Blocks run in the order of the pages, in one directory in which the README's demo was made. docs/api.md needs a server:
see test_api_page.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.pages import BLOCK, commands, masked, missing_lines

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("docs")]


def blocks() -> list[tuple[str, str, str]]:
    """Page, kind and text of every block."""
    return [
        (str(page.relative_to(ROOT)), kind, text)
        for page in PAGES
        if page.name != "api.md"
        for kind, text in BLOCK.findall(page.read_text(encoding="utf-8"))
        if kind != "json"
    ]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Where the blocks run, and with which environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return tmp_path_factory.mktemp("reader"), {**os.environ, "PATH": path}


def run(command: list[str] | str, where: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def test_every_block_of_the_docs_runs_and_prints_what_it_says(shell: tuple[Path, dict[str, str]]) -> None:
    where, environment = shell
    makefile = (ROOT / "Makefile").read_text()
    ran = []
    for page, kind, text in blocks():
        if kind == "python":
            run([sys.executable, "-c", text], where, environment)
            ran.append(page)
            continue
        for command, expected in commands(text):
            if command == "make test":  # it is what is running
                continue
            if command == "make demo":
                assert "demo: $(VENV)/installed\n\t$(BIN)/oneseek demo\n" in makefile
                command = "oneseek demo"
            assert missing_lines(expected, run(command, where, environment)) == [], f"{page}: {command}"
            ran.append(page)
    assert {"README.md", "docs/runs.md"} <= set(ran)


def test_a_line_that_is_not_printed_is_found() -> None:
    assert missing_lines("epoch 1/2\n...\ndone\n", "epoch 7/9\nmore\ndone\n") == []
    assert missing_lines("epoch 1/2\nchampion\n", "epoch 1/2\n") == ["champion"]
    assert missing_lines("b\na\n", "a\nb\n") == ["a"]
    assert masked(" 1   Ekvik   2.7849  1e-05 ") == "# Ekvik # #"


def test_every_link_of_the_docs_leads_somewhere() -> None:
    links = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
        if not target.startswith("http")
    ]

    assert [f"{page.name}: {target}" for page, target in links if not (page.parent / target).exists()] == []
