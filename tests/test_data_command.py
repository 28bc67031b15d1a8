"""`oneseek data` as a person or a program meets it."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from oneseek.cli import main
from oneseek.cli.data import progress_bars
from support.base_models import write_model

GOOD = {"messages": [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "At nine."}]}
BAD = [{"messages": []}, {"messages": 3}, {"text": "other"}, {"messages": 4}, {"messages": 5}, {"messages": 6}]


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.text = " ".join((out + err).split())

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Say = Callable[..., Said]


@pytest.fixture
def say(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Run `oneseek data …` in a directory with chats in rows.jsonl, two of the same, and a home beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONESEEK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    write("rows.jsonl", [GOOD, *BAD, GOOD])
    write("good.jsonl", [GOOD, {"messages": [*GOOD["messages"], *GOOD["messages"]]}])

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["oneseek", "data", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfdbinary.readouterr()
        return Said(code, out.decode(), err.decode())

    return run


def write(name: str, rows: list[Any]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_inspect_says_what_a_file_is_and_what_is_wrong_with_it(say: Say) -> None:
    said = say("inspect", "rows.jsonl")

    assert said.code == 0
    assert "format messages" in said.text
    assert "strategy chat, method sft" in said.text
    assert "2 usable, 6 not" in said.text
    assert "1: line 8 repeats line 1" in said.text
    assert "converts to sharegpt, prompt_completion, alpaca where nothing is lost" in said.text
    assert "empty-content" in said.text
    assert "'messages' is a number, not a list" in said.text
    assert '\n  {"messages":[{"role":"user","content":"When?"}' in said.out
    assert '\n  ✗ cannot be used: {"messages":[]}' in said.out


def test_inspect_tells_programs_the_same(say: Say) -> None:
    told = say("inspect", "rows.jsonl", "--json").json

    assert (told["container"], told["format"], told["used_as"]) == ("jsonl", "messages", "messages")
    assert (told["strategy"], told["method"], told["rows"]) == ("chat", "sft", 2)
    assert {group["kind"]: group["count"] for group in told["bad_rows"]} == {
        "empty-content": 1, "wrong-type": 4, "other-format": 1,
    }  # fmt: skip
    wrong = next(group for group in told["bad_rows"] if group["kind"] == "wrong-type")
    assert [example["line"] for example in wrong["examples"]] == [3, 5, 6]
    assert wrong["examples"][0] == {"line": 3, "reason": "'messages' is a number, not a list"}
    assert told["duplicates"] == {"count": 1, "examples": [[8, 1]]}
    assert told["first"] == [GOOD, *BAD[:2]]
    assert told["size_bytes"] == Path("rows.jsonl").stat().st_size
    assert "sharegpt" in told["converts_to"]


def test_what_a_row_holds_commands_no_terminal(say: Say) -> None:
    write("rows.jsonl", [{"text": "\x1b[2J\x9b31m\u202e"}, {"\x1b]0;title\x07": 1}])

    said = say("inspect", "rows.jsonl")

    assert said.code == 0
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(said.out)


@pytest.mark.parametrize("command", ["inspect", "stats", "add"])
def test_a_file_that_is_not_there_is_refused(say: Say, command: str) -> None:
    said = say(command, "none.jsonl")

    assert said.code == 2
    assert "There is no dataset none.jsonl" in said.text


def test_csv_that_is_not_called_so_is_told_what_to_be_called(say: Say) -> None:
    Path("rows.txt").write_text("text\nhello\n")

    said = say("inspect", "rows.txt")

    assert said.code == 2
    assert "a file of CSV must end in .csv" in said.text


def test_convert_writes_the_other_format(say: Say) -> None:
    said = say("convert", "good.jsonl", "--to", "sharegpt", "-o", "out.json")

    assert said.code == 0
    assert "out.json: 2 rows, messages to sharegpt, json" in said.text
    assert json.loads(Path("out.json").read_text())[0]["conversations"][0] == {"from": "human", "value": "When?"}


def test_convert_tells_programs_what_it_wrote(say: Say) -> None:
    write("rows.jsonl", [{**GOOD, "id": 7}])

    told = say("convert", "rows.jsonl", "--to", "alpaca", "-o", "out.csv", "--json").json

    assert (told["rows"], told["source_format"], told["format"], told["container"]) == (1, "messages", "alpaca", "csv")
    assert told["left_out"] == ["id"]
    assert told["path"] == "out.csv"


def test_convert_refuses_with_lines_and_reasons_and_writes_nothing(say: Say) -> None:
    said = say("convert", "good.jsonl", "--to", "prompt_completion", "-o", "out.jsonl")

    assert said.code == 2
    assert "line 2: " in said.text
    assert not Path("out.jsonl").exists()


def test_convert_replaces_a_file_only_when_told_to(say: Say) -> None:
    Path("out.jsonl").write_text("mine")

    refused = say("convert", "good.jsonl", "--to", "messages", "-o", "out.jsonl")
    assert (refused.code, Path("out.jsonl").read_text()) == (2, "mine")
    forced = say("convert", "good.jsonl", "--to", "messages", "-o", "out.jsonl", "--force")

    assert forced.code == 0
    assert len(Path("out.jsonl").read_text().splitlines()) == 2


def test_convert_tells_which_fields_it_left_out(say: Say) -> None:
    write("rows.jsonl", [{**GOOD, "id": 7}])

    assert "Left out, as messages does not use them: id" in say(
        "convert", "rows.jsonl", "--to", "messages", "-o", "out.json"
    ).text  # fmt: skip


def test_stats_without_models_counts_characters(say: Say) -> None:
    told = say("stats", "rows.jsonl", "--json").json

    assert told["characters"] == {"rows": 2, "total": 26, "mean": 13.0, "median": 13.0, "p95": 13, "max": 13}
    assert told["models"] == {}
    assert "--base-models" in say("stats", "rows.jsonl").text


def test_stats_tells_the_rows_that_it_does_not_count(say: Say) -> None:
    Path("my rows.jsonl").write_bytes(Path("rows.jsonl").read_bytes())

    said = say("stats", "my rows.jsonl")
    told = say("stats", "my rows.jsonl", "--json").json

    assert "2 rows, 6 more cannot be used (oneseek data inspect 'my rows.jsonl')" in said.text
    assert told["bad_rows"] == say("inspect", "my rows.jsonl", "--json").json["bad_rows"]
    assert "more cannot be used" not in say("stats", "good.jsonl").text


@pytest.mark.parametrize(
    "chosen",
    [
        ("--base-models", "alfa", "beta"),
        ("--base-models", "alfa,beta-1b"),
        ("--base-models", "alfa", "--base-models", "beta", "alfa-1b"),
    ],
    ids=["spaces", "commas", "repeated"],
)
def test_stats_counts_the_tokens_of_each_model_named(say: Say, chosen: tuple[str, ...]) -> None:
    write_model(Path("home/models/alfa-1b"))
    write_model(Path("home/models/beta-1b"), vocab=300)

    told = say("stats", "rows.jsonl", *chosen, "--max-length", "20", "--json").json

    assert list(told["models"]) == ["alfa-1b", "beta-1b"]
    counted = told["models"]["alfa-1b"]
    assert counted["tokens"]["rows"] == 2
    assert counted["truncated"] == 2
    assert sum(each["rows"] for each in counted["histogram"]) == 2


def test_stats_shows_a_table_and_what_a_template_refuses(say: Say) -> None:
    template = "{% if messages|length > 2 %}{{ raise_exception('too many turns') }}{% endif %}" + (
        "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
    )
    write_model(Path("home/models/alfa-1b"), template=template)

    said = say("stats", "good.jsonl", "--base-models", "alfa")

    assert said.code == 0
    assert "alfa-1b refuses 1 rows:" in said.text
    assert "line 2: " in said.text
    assert "too many turns" in said.text
    assert "Rows by tokens" in said.text


def test_stats_for_a_model_that_takes_no_row_shows_no_figures_and_why(say: Say) -> None:
    write_model(Path("home/models/alfa-1b"), template="{{ raise_exception('no turns here') }}")

    said = say("stats", "good.jsonl", "--base-models", "alfa")

    assert said.out.count("–") == 7
    assert "no turns here" in said.text
    assert "Rows by tokens" not in said.text


def test_stats_names_every_model_that_cannot_be_used_and_counts_the_others(say: Say) -> None:
    write_model(Path("home/models/alfa-1b"), chat=False)
    write_model(Path("home/models/beta-1b"))
    write_model(Path("home/models/gamma-1b"), chat=False)

    said = say("stats", "good.jsonl", "--base-models", "alfa", "beta", "gamma")
    told = say("stats", "good.jsonl", "--base-models", "alfa", "beta", "gamma", "--json")

    assert (said.code, told.code) == (2, 2)
    assert "✗ alfa-1b: " in said.text
    assert "✗ gamma-1b: " in said.text
    assert said.text.count("no chat template") == 2
    assert list(told.json["models"]) == ["beta-1b"]
    assert set(told.json["unusable"]) == {"alfa-1b", "gamma-1b"}
    assert set(told.json["unusable"]["alfa-1b"]) == {"problem", "fix"}


def test_stats_for_a_name_that_means_no_model_is_refused(say: Say) -> None:
    said = say("stats", "rows.jsonl", "--base-models", "gamma")

    assert said.code == 2
    assert "gamma" in said.text


def test_figures_are_called_what_programs_call_them(say: Say) -> None:
    write_model(Path("home/models/alfa-1b"))

    said = say("stats", "good.jsonl", "--base-models", "alfa", "--max-length", "40")
    told = say("stats", "good.jsonl", "--base-models", "alfa", "--max-length", "40", "--json").json

    names = re.findall(r"^│ ([a-z]\w+)", said.out, re.MULTILINE)
    assert names == ["mean", "median", "p95", "max", "truncated", "supervised", "unlearnable"]
    counted = told["models"]["alfa-1b"]
    assert set(names) <= {*counted, *counted["tokens"]}
    assert "1 (50.0%)" in said.text


@pytest.mark.parametrize("count", [1, 2, 5])
def test_tables_fit_a_terminal_of_80_columns_and_cut_no_key(
    say: Say, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr("oneseek.cli.data.terminal", lambda: Console(highlight=False, width=80))
    keys = [f"a-model-of-the-town-{number}" for number in range(count)]
    for key in keys:
        write_model(Path("home/models") / key)
    write("many.jsonl", [GOOD] * 1234)
    say("add", "many.jsonl", "--name", "a name of some length for the rows of the town")

    lines = say("stats", "many.jsonl", "--base-models", *keys).out.splitlines()
    listed = say("list").out.splitlines()

    tables = [line for line in [*lines, *listed] if line[:1] in "┏┃┡│└"]
    assert max(map(len, tables)) <= 80
    assert sum(line.count("█ 1,234") for line in lines) == count
    assert sum("┃ tokens from ┃" in line for line in lines) == math.ceil(count / 2)
    for key in keys:
        assert sum(key in line for line in lines) == 2
    assert sum(re.search(r"│ \d{4}-\d\d-\d\d │$", line) is not None for line in listed) == 1


def test_a_dataset_is_added_listed_used_and_removed(say: Say) -> None:
    added = say("add", "rows.jsonl", "--name", "town")
    listed = say("list")
    inspected = say("inspect", "town", "--json").json
    removed = say("remove", "town", "--json").json

    assert "town: 2 rows of messages, 6 more cannot be used (oneseek data inspect" in added.text
    assert inspected["sha256"][:12] in listed.text
    assert removed == {"removed": inspected["sha256"], "name": "town"}
    assert "No dataset is stored" in say("list").text


def test_a_dataset_that_gets_another_name_says_which_it_had(say: Say) -> None:
    first = say("add", "rows.jsonl", "--name", "town")
    renamed = say("add", "rows.jsonl", "--name", "city")
    told = say("add", "rows.jsonl", "--name", "place", "--json").json

    assert "(was " not in first.text
    assert renamed.text.startswith("city: 2 rows")
    assert renamed.text.endswith("(was town)")
    assert (told["name"], told["renamed_from"]) == ("place", "city")


def test_a_removed_dataset_is_answered_with_its_name(say: Say) -> None:
    sha256 = say("add", "rows.jsonl", "--name", "town", "--json").json["sha256"]

    assert say("remove", sha256[:12]).text == f"Removed town ({sha256[:12]})"


def test_a_damaged_dataset_is_removed_by_its_hash(say: Say) -> None:
    sha256 = say("add", "rows.jsonl", "--json").json["sha256"]
    Path(f"home/datasets/{sha256}.jsonl").unlink()

    assert say("remove", sha256[:8], "--json").json == {"removed": sha256, "name": None}


def test_stored_datasets_are_told_to_programs(say: Say) -> None:
    added = say("add", "rows.jsonl", "--json").json

    told = say("list", "--json").json

    assert added.pop("renamed_from") is None
    assert told == {"datasets": [added], "damaged": []}
    assert added["bad_rows"] == say("inspect", "rows.jsonl", "--json").json["bad_rows"]


def test_a_damaged_dataset_is_listed_with_its_fix(say: Say) -> None:
    sha256 = say("add", "rows.jsonl", "--json").json["sha256"]
    Path(f"home/datasets/{sha256}.jsonl").unlink()

    said = say("list")

    assert said.code == 0
    assert f"The stored dataset {sha256[:12]} (rows.jsonl) has lost its file" in said.text
    assert f"oneseek data remove {sha256[:12]}" in said.text


def test_removing_what_is_not_there_is_refused(say: Say) -> None:
    said = say("remove", "town", "--json")

    assert said.code == 2
    assert said.json["error"]["code"] == "DatasetUnknown"
    assert "oneseek data list" in said.json["error"]["fix"]


@pytest.mark.parametrize("command", ["inspect", "convert", "stats", "add", "list", "remove"])
def test_help_teaches_with_an_example(say: Say, command: str) -> None:
    said = say(command, "--help")

    assert said.code == 0
    assert f"\n  oneseek data {command}" in said.out


def test_there_are_no_bars_where_nobody_would_see_them(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as bar:
        assert bar("rows") is None

    assert capsys.readouterr().err == ""


def test_on_a_terminal_a_bar_tells_how_far_the_reading_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")

    with progress_bars() as bar:
        told = bar("Checking rows")
        assert told is not None
        told(500_000, 2_000_000)

    shown = capsys.readouterr()
    assert "Checking rows" in shown.err
    assert "0.5/2.0 MB read" in re.sub(r"\x1b\[[\d;]*m", "", shown.err)
    assert shown.out == ""
