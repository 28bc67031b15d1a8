"""Asking a finished run: what it says, what it refuses, and that nothing of it stays behind."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result
from filelock import FileLock
from rich.console import Console

import oneseek
from oneseek import child, runs
from oneseek.cli import oneseek as command
from oneseek.cli.generate import _showing
from oneseek.config.sources import resolve
from oneseek.errors import ConfigError, ModelError, OneSeekError, RunError, SelectionError, StorageError, WorkerFailed
from oneseek.executors import answering
from oneseek.files.layout import RunDirectory
from oneseek.runs import AnswerFinished, Generated, TokenGenerated
from support.tiny_models import chat_rows, write_model, write_rows

pytestmark = pytest.mark.engine

PROMPTS = ("När öppnar biblioteket, och varför?", "Open?")
KEYS = ("tiny-gpt2", "tiny-llama")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run of two tiny models, which answered the prompts after each of its two epochs."""
    root = tmp_path_factory.mktemp("home")
    write_model(root / "models" / "tiny-llama", "llama")
    write_model(root / "models" / "tiny-gpt2", "gpt2")
    result = oneseek.train(
        write_rows(root / "rows.jsonl", chat_rows(12)),
        KEYS,
        root=root,
        settings={
            "training.num_epochs": 2,
            "training.learning_rate": 0.01,
            "training.sample_prompts": list(PROMPTS),
            "training.sample_tokens": 8,
            "execution.executor": "inline",
        },
    )
    return RunDirectory(Path(result.certified_dir))


@pytest.fixture
def copy(trained: RunDirectory, tmp_path: Path) -> RunDirectory:
    """The same run, to be damaged."""
    return RunDirectory(Path(shutil.copytree(trained.root, tmp_path / "oneseek-certified" / trained.run_id)))


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def test_every_prompt_is_answered_by_the_base_and_the_adapter_of_each_model(trained: RunDirectory) -> None:
    events = list(runs.generate(trained, PROMPTS, max_new_tokens=8))

    answers = [event for event in events if isinstance(event, AnswerFinished)]
    order = [(answer.model, answer.prompt, answer.variant) for answer in answers]
    assert order == [(key, n, variant) for key in KEYS for n in (0, 1) for variant in ("base", "adapter")]
    for answer in answers:
        pieces = [
            event.text
            for event in events
            if isinstance(event, TokenGenerated)
            and (event.model, event.prompt, event.variant) == (answer.model, answer.prompt, answer.variant)
        ]
        assert "".join(pieces) == answer.text
        assert 1 <= answer.tokens <= 8
        assert answer.tokens_per_second > 0
    last = runs.describe(trained).state
    assert last is not None
    best = {key: last.committed[last.verified[key].epoch - 1].results[key].samples for key in KEYS}
    said = {key: tuple(a.text for a in answers if (a.model, a.variant) == (key, "adapter")) for key in KEYS}
    assert said == best  # what training recorded of that epoch


def test_closing_the_answers_ends_the_process(trained: RunDirectory) -> None:
    before = children()
    told = runs.generate(trained, PROMPTS, models=["llama"], max_new_tokens=100)
    next(told)
    assert children() - before

    told.close()

    assert children() <= before


def test_a_process_that_is_killed_is_said_to_be_lost(trained: RunDirectory) -> None:
    before = children()
    told = runs.generate(trained, PROMPTS, models=["llama"], max_new_tokens=200)
    next(told)
    for pid in children() - before:
        os.kill(pid, signal.SIGKILL)

    with pytest.raises(WorkerFailed, match="tiny-llama: its process was killed") as lost:
        list(told)

    assert lost.value.fix


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a stopped process with its parent")
def test_even_a_stopped_process_ends_with_its_parent(trained: RunDirectory) -> None:
    code = """
import os, signal, sys
from pathlib import Path
import psutil
from oneseek import runs
from oneseek.files.layout import RunDirectory
told = runs.generate(RunDirectory(Path(sys.argv[1])), ["Open?"], models=["llama"], max_new_tokens=200)
next(told)
[process] = psutil.Process().children()
os.kill(process.pid, signal.SIGSTOP)
print(process.pid, "torch" in sys.modules, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

    done = subprocess.run([sys.executable, "-c", code, str(trained.root)], capture_output=True, text=True, check=False)

    assert done.returncode == -signal.SIGKILL, done.stderr
    process, imports_torch = done.stdout.split()
    assert imports_torch == "False"
    pid = int(process)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("kind", "error", "exit_code"),
    [("refused", ModelError, 2), ("fatal", StorageError, 1), ("out_of_memory", WorkerFailed, 1)],
)
def test_a_failure_becomes_the_error_of_its_kind(
    trained: RunDirectory, monkeypatch: pytest.MonkeyPatch, kind: str, error: type[OneSeekError], exit_code: int
) -> None:
    says(monkeypatch, json.dumps({"type": "Failure", "kind": kind, "problem": "It broke.", "fix": "Mend it."}), 0)

    with pytest.raises(error) as raised:
        list(runs.generate(trained, PROMPTS, models=["llama"]))

    assert (raised.value.problem, raised.value.fix) == ("tiny-llama: It broke.", "Mend it.")
    assert raised.value.exit_code == exit_code


def test_a_process_that_ends_without_a_word_is_quoted_from_its_log(
    trained: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, "", 3)

    with pytest.raises(WorkerFailed, match=r"exit code 3\. Its last words: good bye"):
        list(runs.generate(trained, PROMPTS, models=["llama"]))


def says(monkeypatch: pytest.MonkeyPatch, line: str, code: int) -> None:
    """A process that prints one line, and some words to its log."""
    script = f"import sys; sys.stdin.readline(); print({line!r}); print('good bye', file=sys.stderr); sys.exit({code})"

    def start(module: str, stderr: Any, threads: int) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        command = script if line else script.replace("print('');", "")
        return subprocess.Popen([sys.executable, "-c", command], stdin=pipe, stdout=pipe, stderr=stderr)

    monkeypatch.setattr(child, "start", start)


# -- refused before anything is started -------------------------------------------------------------------------


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(child, "start", start)


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"prompts": []}, ConfigError),
        ({"prompts": [" "]}, ConfigError),
        ({"prompts": ["\udcff"]}, ConfigError),
        ({"system": "\udcff"}, ConfigError),
        ({"max_new_tokens": 0}, ConfigError),
        ({"temperature": -0.1}, ConfigError),
        ({"temperature": float("nan")}, ConfigError),
        ({"top_p": 0.0}, ConfigError),
        ({"top_p": 1.1}, ConfigError),
        ({"seed": -1}, ConfigError),
        ({"models": ["tiny"]}, SelectionError),
        ({"models": ["mistral"]}, SelectionError),
    ],
    ids=str,
)
def test_a_request_that_makes_no_sense_is_refused(
    trained: RunDirectory, asked: dict[str, Any], error: type[OneSeekError]
) -> None:
    with pytest.raises(error) as refused:
        runs.generate(trained, **{"prompts": PROMPTS, **asked})

    assert refused.value.fix
    assert refused.value.exit_code == 2


@pytest.mark.usefixtures("nothing_starts")
def test_a_run_that_has_not_ended_is_refused(copy: RunDirectory) -> None:
    journal = copy.journal.read_bytes().splitlines(keepends=True)
    copy.journal.write_bytes(b"".join(journal[:-1]))

    with pytest.raises(RunError, match="is interrupted and has no adapters") as refused:
        runs.generate(copy, PROMPTS)

    assert refused.value.fix == f"Go on with: oneseek resume {os.path.relpath(copy.root)}"


@pytest.mark.usefixtures("nothing_starts")
def test_a_run_that_is_not_yet_over_is_waited_for(copy: RunDirectory) -> None:
    journal = copy.journal.read_bytes().splitlines(keepends=True)
    copy.journal.write_bytes(b"".join(journal[:-1]))
    copy.work.mkdir()

    with FileLock(copy.lock), pytest.raises(RunError, match="is training and has no adapters") as refused:
        runs.generate(copy, PROMPTS)

    assert refused.value.fix == "Ask when it has ended."


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (flip, "is not the adapter that was verified."),
        (Path.unlink, "is gone."),
        (lambda path: path.write_bytes(b""), "is cut off: "),
        (cut, "is cut off: "),
    ],
    ids=["bit", "gone", "empty", "cut"],
)
def test_an_adapter_that_is_not_what_was_verified_is_named_once(
    copy: RunDirectory, damage: Callable[[Path], None], problem: str
) -> None:
    file = copy.adapter("tiny-llama") / "adapter_model.safetensors"
    damage(file)

    with pytest.raises(StorageError) as refused:
        runs.generate(copy, PROMPTS)

    assert refused.value.problem.startswith(f"{file} {problem}")
    assert refused.value.problem.count(str(file)) == 1
    assert not refused.value.problem.endswith("..")
    assert "Download" not in str(refused.value)


@pytest.mark.usefixtures("nothing_starts")
def test_a_base_model_that_is_gone_is_named(trained: RunDirectory, tmp_path: Path) -> None:
    model = trained.results.root / "tiny-gpt2"
    model.rename(tmp_path / "elsewhere")
    try:
        with pytest.raises(RunError, match=r"can't be asked: the base model .*tiny-gpt2 is gone"):
            runs.generate(trained, PROMPTS)
    finally:
        (tmp_path / "elsewhere").rename(model)


def other_key(path: Path) -> None:
    path.write_text(path.read_text().replace("{", '{"other": 1, ', 1))


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("file", "change", "part"),
    [
        ("model.safetensors", flip, "weights"),
        ("config.json", other_key, "config.json"),
        ("tokenizer.json", lambda path: path.write_bytes(path.read_bytes() + b" "), "tokenizer"),
        ("chat_template.jinja", lambda path: path.write_text("{{ messages[0].content }}"), "chat template"),
    ],
    ids=["weights", "config", "tokenizer", "template"],
)
def test_a_base_model_that_is_another_is_refused_unless_it_is_not_asked(
    trained: RunDirectory, file: str, change: Callable[[Path], object], part: str
) -> None:
    path = trained.results.root / "tiny-llama" / file
    before = path.read_bytes() if path.exists() else None
    change(path)
    try:
        with pytest.raises(RunError) as refused:
            runs.generate(trained, PROMPTS)
        runs.generate(trained, PROMPTS, models=["gpt2"])
    finally:
        path.unlink() if before is None else path.write_bytes(before)

    assert f"of the base model tiny-llama, the {part} changed" in refused.value.problem
    assert refused.value.fix == "Put back what it was started with, or name other models."


@pytest.mark.usefixtures("nothing_starts")
def test_a_prompt_that_is_too_long_for_one_model_is_found_before_any_answers(trained: RunDirectory) -> None:
    with pytest.raises(ModelError, match=r"^tiny-gpt2, prompt 2 \('open\? .*\): .* reads 256") as refused:
        runs.generate(trained, ["Open?", "open? " * 300])

    assert refused.value.fix == "Ask something shorter."


@pytest.mark.usefixtures("nothing_starts")
def test_an_empty_prompt_is_named_by_its_number(trained: RunDirectory) -> None:
    with pytest.raises(ConfigError, match=r"^Prompt 2 is empty\."):
        runs.generate(trained, ["Open?", " "])


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[answering.Questions]:
    """What would be asked; the answers come from here, without a process."""
    questions: list[answering.Questions] = []

    def ask(question: answering.Questions, _: answering.Begun) -> Iterator[Generated]:
        questions.append(question)
        for number, prompt in enumerate(question.prompts):
            for variant in ("base", "adapter")[not question.base :]:
                which: dict[str, Any] = {"model": question.model, "variant": variant, "prompt": number}
                text = f"{variant} on {prompt}\x1b[2J"
                yield TokenGenerated(**which, text=text)
                yield AnswerFinished(**which, text=text, finish_reason="length", tokens=2, tokens_per_second=1.0)

    monkeypatch.setattr(sys.modules["oneseek.runs.generate"], "ask", ask)  # the function has the module's name
    return questions


def say(*arguments: str, given: bytes | None = None) -> Result:
    return CliRunner().invoke(command, ["generate", *arguments], input=given)


def test_a_pipe_gets_each_answer_as_a_block(trained: RunDirectory, asked: list[answering.Questions]) -> None:
    said = say(str(trained.root), "--prompt", "Open?", "--models", "llama")

    assert said.exit_code == 0, said.output
    assert said.output.splitlines() == [
        "tiny-llama > Open?",
        "[base model, 2 tokens, 1/s, cut off]",
        "base on Open?\x1b[2J",
        "",
        "[with adapter, 2 tokens, 1/s, cut off]",
        "adapter on Open?\x1b[2J",
        "",
    ]


def test_json_is_an_event_on_each_line(trained: RunDirectory, asked: list[answering.Questions]) -> None:
    said = say(str(trained.root), "--prompt", "Open?", "--models", "llama", "--no-base", "--json")

    token, answer = (json.loads(line) for line in said.output.splitlines())
    assert token == {
        "type": "token",
        "model": "tiny-llama",
        "variant": "adapter",
        "prompt": 0,
        "text": "adapter on Open?\x1b[2J",
    }
    assert answer == {**token, "type": "answer", "finish_reason": "length", "tokens": 2, "tokens_per_second": 1.0}


def test_a_terminal_shows_base_and_adapter_side_by_side(
    trained: RunDirectory, asked: list[answering.Questions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")

    said = say(str(trained.root), "--prompt", "Open?", "--models", "llama")

    [row] = {line for line in said.output.splitlines() if "base on Open?" in line}
    assert "adapter on Open?" in row
    assert "\x1b[2J" not in said.output  # what a model writes can't command the terminal


def test_what_is_asked_is_what_the_flags_say(
    trained: RunDirectory, asked: list[answering.Questions], tmp_path: Path
) -> None:
    (tmp_path / "questions.txt").write_text("Ett, två?\n\n  Tre?\n", encoding="utf-8")

    say(
        *(str(trained.root), "--prompt", "Noll?", "--prompts", str(tmp_path / "questions.txt"), "--models"),
        *("gpt2", "llama", "--max-new-tokens", "9", "--temperature", "0.5", "--top-p", "0.9", "--seed", "4"),
        *("--system", "Be brief."),
    )

    assert [question.model for question in asked] == list(KEYS)
    for question in asked:
        assert question.prompts == ("Noll?", "Ett, två?", "  Tre?")
        assert (question.max_new_tokens, question.temperature, question.top_p, question.seed) == (9, 0.5, 0.9, 4)
        assert question.system == "Be brief."
        assert question.base


def test_prompts_come_from_standard_input_too(trained: RunDirectory, asked: list[answering.Questions]) -> None:
    say(str(trained.root), "--prompts", "-", given="Öppet?\n".encode())

    assert asked[0].prompts == ("Öppet?",)


def test_only_a_line_feed_ends_a_prompt(trained: RunDirectory, asked: list[answering.Questions]) -> None:
    say(str(trained.root), "--prompts", "-", given="a\u2028b\x0c?\r\nc\r\n".encode())

    assert asked[0].prompts == ("a\u2028b\x0c?", "c")


def test_a_half_answer_leaves_nothing_on_a_screen_that_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=60, height=8)
    monkeypatch.setattr("oneseek.cli.generate.terminal", lambda: console)

    with _showing(["Open?"], as_json=False, base=False) as show:
        show(TokenGenerated(model="tiny", variant="adapter", prompt=0, text="\n".join(f"line {n}" for n in range(30))))

    assert "line 29" not in written.getvalue()


def test_a_whole_answer_is_on_the_screen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=60, height=8)
    monkeypatch.setattr("oneseek.cli.generate.terminal", lambda: console)
    which: dict[str, Any] = {"model": "tiny", "variant": "adapter", "prompt": 0}
    text = "\n".join(f"line {n}" for n in range(30))

    with _showing(["Open?"], as_json=False, base=False) as show:
        show(TokenGenerated(**which, text=text))
        show(AnswerFinished(**which, text=text, finish_reason="stop", tokens=2, tokens_per_second=1.0))

    assert written.getvalue().count("line 29") == 1


def test_a_file_of_prompts_that_is_not_text_is_refused(trained: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_bytes(b"a\xff")

    said = say(str(trained.root), "--prompts", str(tmp_path / "questions.txt"))

    assert isinstance(said.exception, ConfigError)
    assert "not UTF-8 at byte 1" in said.exception.problem


def test_python_gets_each_answer_when_it_is_whole(trained: RunDirectory, asked: list[answering.Questions]) -> None:
    answers = list(oneseek.generate(trained.root, ["Open?"], models=["llama"], base=False))

    assert [(answer.variant, answer.finish_reason) for answer in answers] == [("adapter", "length")]


# -- sample prompts ------------------------------------------------------------------------------------------------


def test_a_run_shows_the_answers_to_its_sample_prompts_by_epoch(trained: RunDirectory) -> None:
    said = CliRunner().invoke(command, ["runs", "show", str(trained.root)])

    for prompt in PROMPTS:
        assert said.output.count(prompt) == 1
    rows = [line for line in said.output.splitlines() if line.startswith("│") and "tiny-" in line]
    assert [row.split()[1] for row in rows] == ["1", "1", "2", "2"] * 2


def test_programs_get_the_answers_to_the_sample_prompts(trained: RunDirectory) -> None:
    said = json.loads(CliRunner().invoke(command, ["runs", "show", str(trained.root), "--json"]).output)
    results = json.loads(trained.training_results.read_bytes())
    metrics = json.loads(trained.live_metrics.read_bytes())

    assert said["sample_prompts"] == results["sample_prompts"] == list(PROMPTS)
    assert [epoch["epoch"] for epoch in said["samples"]] == [1, 2]
    for shown, committed in zip(said["samples"], results["training_history"], strict=True):
        assert shown["samples"] == committed["samples"]
        assert {key: len(answers) for key, answers in shown["samples"].items()} == dict.fromkeys(KEYS, 2)
    assert metrics["samples"] == said["samples"][-1]["samples"]


@pytest.mark.parametrize(
    "settings",
    [
        {"flags": {"training.sample_prompts": ["När, då?", "b"]}},
        {"environment": {"ONESEEK_TRAINING__SAMPLE_PROMPTS": '["När, då?", "b"]'}},
        {"file": "training:\n  sample_prompts:\n    - När, då?\n    - b\n"},
    ],
    ids=["flag", "environment", "file"],
)
def test_a_sample_prompt_keeps_its_commas(settings: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(settings.get("file", ""), encoding="utf-8")

    resolved = resolve(file=file, environment=settings.get("environment", {}), flags=settings.get("flags", {}))

    assert resolved.problems == ()
    assert resolved.config.training.sample_prompts == ("När, då?", "b")


def test_a_sample_prompt_alone_needs_no_list() -> None:
    resolved = resolve(file=None, environment={"ONESEEK_TRAINING__SAMPLE_PROMPTS": "När, då?"}, flags={})

    assert resolved.config.training.sample_prompts == ("När, då?",)


def test_the_flag_is_given_again_for_another_prompt() -> None:
    said = CliRunner().invoke(
        command, ["config", "show", "--json", "--sample-prompt", "När, då?", "--sample-prompt", "b"]
    )

    assert json.loads(said.output)["training.sample_prompts"] == {"value": ["När, då?", "b"], "origin": "flag"}
