"""`oneseek validate` as a person meets it: what it prints, what it asks, and what it leaves of a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from oneseek.cli import main
from support.base_models import CHAT_TEMPLATE, write_model

ROWS = [
    {"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": f"Answer {n}."}]}
    for n in range(20)
]
WRONG = """\
# what we try first
model:
  base_models: [llama]   # the only one
data:
  dataset: rows.jsonl
  strategy: standard
"""
RIGHT = ("--dataset", "rows.jsonl", "--base-models", "llama")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_model(tmp_path / "models" / "llama", vocab=300)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "wrong.yaml").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def say(home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `oneseek validate …`; its exit code and all that it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["oneseek", "validate", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return code, out + err

    return run


def test_a_right_request_would_start_and_what_it_takes_is_told(say: Any) -> None:
    code, said = say(*RIGHT)

    assert code == 0
    assert "✓ The training would start (0 errors, 0 warnings)." in said
    assert "1 model at once" in said
    assert "sampled" not in said


def test_the_environment_alone_is_a_request(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_MODELS", "llama")
    monkeypatch.setenv("ONESEEK_DATA__DATASET", "rows.jsonl")

    assert say()[0] == 0


def test_nothing_asked_for_is_refused_with_what_is_missing(say: Any) -> None:
    code, said = say()

    assert code == 2
    assert "No base models selected." in said
    assert "No dataset is given." in said


def test_an_answer_that_rests_on_a_sample_says_so(home: Path, say: Any) -> None:
    (home / "rows.jsonl").write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(1500)))

    code, said = say(*RIGHT)

    assert code == 0
    assert " of 1,500 rows (sampled)" in said


def test_a_rehearsal_that_cannot_be_says_why(say: Any) -> None:
    code, said = say(*RIGHT, "--epochs", "-1", "--rehearse")

    assert code == 2
    assert "Not rehearsed: correct the errors first." in said


def test_escape_codes_of_a_template_do_not_reach_the_terminal(home: Path, say: Any) -> None:
    rude = "{{ raise_exception('\\x1b[31mboo\\x07') }}" + CHAT_TEMPLATE
    write_model(home / "models" / "rude", vocab=300, template=rude)

    code, said = say("--dataset", "rows.jsonl", "--base-models", "rude")

    assert code == 2
    assert "boo" in said
    assert "\x1b[31mboo" not in said
    assert "\x07" not in said


# -- fixes ---------------------------------------------------------------------------------------------------------


def test_fixes_are_shown_written_and_the_file_is_kept_as_it_was(home: Path, say: Any) -> None:
    code, said = say("--config", "wrong.yaml", "--fix", "--yes")

    assert code == 2  # what was asked for was wrong; the next time it is not
    assert "-  strategy: standard" in said
    assert "+  strategy: chat" in said
    assert (home / "wrong.yaml").read_text() == WRONG.replace("standard", "chat")
    assert (home / "wrong.yaml.orig").read_text() == WRONG
    assert say("--config", "wrong.yaml")[0] == 0


def test_without_an_answer_nothing_is_written(home: Path, say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        code, said = say("--config", "wrong.yaml", "--fix")

    assert code == 2
    assert "wrong.yaml is as it was." in said
    assert (home / "wrong.yaml").read_text() == WRONG
    assert not (home / "wrong.yaml.orig").exists()


def test_no_file_that_is_there_is_overwritten(home: Path, say: Any) -> None:
    (home / "wrong.yaml.orig").write_text("precious")

    say("--config", "wrong.yaml", "--fix", "--yes")

    assert (home / "wrong.yaml.orig").read_text() == "precious"
    assert (home / "wrong.yaml.orig1").read_text() == WRONG


def test_a_file_keeps_its_mode_its_mark_and_its_link(home: Path, say: Any) -> None:
    (home / "real.yaml").write_bytes(b"\xef\xbb\xbf" + WRONG.encode())
    (home / "real.yaml").chmod(0o600)
    (home / "link.yaml").symlink_to("real.yaml")

    say("--config", "link.yaml", "--fix", "--yes")

    assert (home / "link.yaml").is_symlink()
    assert (home / "real.yaml").read_bytes() == b"\xef\xbb\xbf" + WRONG.replace("standard", "chat").encode()
    assert (home / "real.yaml.orig").read_bytes() == b"\xef\xbb\xbf" + WRONG.encode()
    assert [(home / name).stat().st_mode & 0o777 for name in ("real.yaml", "real.yaml.orig")] == [0o600, 0o600]


def test_a_file_that_changes_while_the_question_stands_is_left_alone(
    home: Path, say: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(*_: Any, **__: Any) -> bool:
        (home / "wrong.yaml").write_text(WRONG + "# added\n")
        return True

    monkeypatch.setattr("click.confirm", meanwhile)

    code, said = say("--config", "wrong.yaml", "--fix")

    assert code == 2
    assert "changed while you were asked" in said
    assert (home / "wrong.yaml").read_text() == WRONG + "# added\n"


def test_what_may_be_meant_is_left_alone_while_the_rest_is_fixed(home: Path, say: Any) -> None:
    (home / "rows.jsonl").write_text((home / "rows.jsonl").read_text() + "{}\n")
    meant = WRONG + "training: {num_epochs: 50}\n"
    (home / "wrong.yaml").write_text(meant)

    _, said = say("--config", "wrong.yaml", "--fix", "--yes")

    assert "training.num_epochs is 50" in said
    assert (home / "wrong.yaml").read_text() == meant.replace("standard", "chat")


def test_what_a_flag_says_is_not_corrected_in_the_file(home: Path, say: Any) -> None:
    (home / "right.yaml").write_text(WRONG.replace("standard", "chat"))

    _, said = say("--config", "right.yaml", "--strategy", "standard", "--fix", "--yes")

    assert "data.strategy comes from flag: correct it there." in said
    assert not (home / "right.yaml.orig").exists()


def test_fixing_needs_a_file(say: Any) -> None:
    code, said = say(*RIGHT, "--fix")

    assert code == 2
    assert "--config" in said


# -- broken off ----------------------------------------------------------------------------------------------------


def test_one_ctrl_c_ends_a_validation_whose_template_is_slow(home: Path) -> None:
    slow = "{% for a in range(99999) %}{% for b in range(12) %}{% endfor %}{% endfor %}" + CHAT_TEMPLATE
    write_model(home / "models" / "slow", vocab=300, template=slow)
    rows = home / "many.jsonl"
    rows.write_text((home / "rows.jsonl").read_text() * 50)
    command = [sys.executable, "-m", "oneseek", "validate", "--dataset", "many.jsonl", "--base-models", "slow"]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not psutil.Process(process.pid).children():  # until the template is at work
        time.sleep(0.05)

    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=20) == 130
