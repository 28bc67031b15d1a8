"""Datasets written in another format or container: everything that was there, or nothing at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oneseek.datasets import write
from oneseek.datasets.formats import Format, detect
from oneseek.datasets.read import read_dataset, rows_of
from oneseek.datasets.scan import Container
from oneseek.datasets.write import convert_file
from oneseek.errors import DatasetError, StorageError

CONTAINERS = get_args(Container)

CALL = {"id": "c1", "type": "function", "function": {"name": "hours", "arguments": {"place": "pool", "days": [1, 2]}}}
TOOL = {"type": "function", "function": {"name": "hours", "parameters": {"type": "object", "properties": {}}}}
WITH_TOOLS = {
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": 'When, "exactly",\nis it open?'},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "9", "tool_call_id": "c1"},
        {"role": "assistant", "content": "At nine; åäö 🏊."},
    ],
    "tools": [TOOL],
}
ROWS: dict[Format, list[dict[str, Any]]] = {
    "messages": [
        WITH_TOOLS,
        {"messages": [{"role": "user", "content": "[1]"}, {"role": "assistant", "content": "{}"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "en?"}]},
                {"role": "assistant", "content": "At nine."},
            ]
        },
    ],
    "sharegpt": [
        {
            "system": "Be short.",
            "conversations": [
                {"from": "human", "value": "When?"},
                {"from": "gpt", "value": "I look."},
                {"from": "function_call", "value": '{"name": "hours", "arguments": {"place": "pool"}}'},
                {"from": "observation", "value": "9"},
                {"from": "gpt", "value": "At nine."},
            ],
            "tools": json.dumps([TOOL]),
        }
    ],
    "text": [{"text": "one, two\r\n three"}, {"text": '[{"a": "b"}]'}, {"text": ' "quoted" '}],
    "prompt_completion": [{"prompt": "a;b\t", "completion": " c\n"}, {"prompt": "[x]", "completion": "{y}"}],
    "alpaca": [{"instruction": "Say", "input": "this", "output": "This."}, {"instruction": "Say", "output": "That."}],
    "preference": [{"prompt": "q", "chosen": " a", "rejected": " b"}, {"chosen": "We open.", "rejected": "We close."}],
    "preference_chat": [
        {
            "prompt": "When?",
            "chosen": [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "At nine."}],
            "rejected": [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "No idea."}],
        },
        {
            "prompt": [{"role": "user", "content": "When?"}],
            "chosen": [{"role": "assistant", "content": "At nine."}],
            "rejected": [{"role": "assistant", "content": "No idea."}],
        },
    ],
    "preference_sharegpt": [
        {
            "conversations": [{"from": "human", "value": "When?"}],
            "chosen": {"from": "gpt", "value": "At nine."},
            "rejected": {"from": "gpt", "value": "No idea."},
        }
    ],
}


def dataset(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("form", ROWS)
def test_every_format_goes_into_every_container_and_comes_back_the_same(
    place: Path, form: Format, container: Container
) -> None:
    source = dataset(place / "rows.jsonl", ROWS[form])

    written = convert_file(source, form, place / f"out.{container}")

    before, after = read_dataset(source), read_dataset(place / f"out.{container}")
    assert (written.rows, written.container, written.format, written.left_out) == (len(ROWS[form]), container, form, ())
    assert list(after.rows) == list(before.rows)
    assert after.format == form
    assert written.sha256 == after.sha256
    assert written.size_bytes == (place / f"out.{container}").stat().st_size


@pytest.mark.parametrize("container", CONTAINERS)
@settings(max_examples=25)
@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
@example(["\0"])
@example(["one", "\0", "two"])
def test_any_text_survives_a_container_or_is_refused(container: Container, texts: list[str]) -> None:
    with TemporaryDirectory() as directory:
        place = Path(directory)
        source = dataset(place / "rows.jsonl", [{"text": text} for text in texts])
        try:
            convert_file(source, "text", place / f"out.{container}")
        except DatasetError as error:
            assert container == "csv"
            assert "cannot be written as csv" in error.problem  # noqa: PT017
            assert "\0" in "".join(texts) or "\r" in "".join(texts)
            assert not (place / "out.csv").exists()
        else:
            assert [row["text"] for row in read_dataset(place / f"out.{container}").rows] == texts


def test_rows_become_those_of_the_other_format(place: Path) -> None:
    source = dataset(place / "rows.jsonl", ROWS["sharegpt"])

    convert_file(source, "messages", place / "out.json")

    (row,) = json.loads((place / "out.json").read_text())
    assert detect(row) == "messages"
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    assert row["tools"] == [TOOL]


def test_a_parquet_file_is_one_that_others_read(place: Path) -> None:
    from pyarrow import parquet

    convert_file(dataset(place / "rows.jsonl", ROWS["messages"]), "messages", place / "out.parquet")

    table = parquet.read_table(place / "out.parquet")
    assert table.column("messages").to_pylist()[1][0] == {
        "role": "user", "content": "[1]", "tool_calls": None, "name": None, "tool_call_id": None,
    }  # fmt: skip


def test_rows_that_would_lose_something_are_named_with_their_lines_and_nothing_is_written(place: Path) -> None:
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    source = dataset(place / "rows.jsonl", [good, WITH_TOOLS, {"messages": 3}, good])

    with pytest.raises(DatasetError, match="2 rows of") as caught:
        convert_file(source, "prompt_completion", place / "out.jsonl")

    assert "line 2: it has tools or calls of them" in caught.value.problem
    assert "line 3: 'messages' is a number" in caught.value.problem
    assert [path.name for path in place.iterdir()] == ["rows.jsonl"]


def test_rows_that_lose_the_same_are_told_together_the_first_named_and_all_counted(place: Path) -> None:
    long = {"messages": [*ROWS["messages"][1]["messages"]] * 2}
    source = dataset(place / "rows.jsonl", [long, *[WITH_TOOLS] * 25, long])

    with pytest.raises(DatasetError, match="27 rows of") as caught:
        convert_file(source, "prompt_completion", place / "out.jsonl")

    assert "lines 1, 27: it has more than one message" in caught.value.problem
    assert "lines 2, 3, 4 and 22 more: it has tools" in caught.value.problem
    assert caught.value.problem.count("it has") == 2


def test_of_many_reasons_the_first_are_named_and_all_rows_are_counted(place: Path) -> None:
    bad = [{"messages": [{"role": f"role {number}", "content": "a"}]} for number in range(14)]
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    source = dataset(place / "rows.jsonl", [good, *bad])

    with pytest.raises(DatasetError, match=r"14 rows of .*'role 9'.*; 4 rows for other reasons\.") as caught:
        convert_file(source, "messages", place / "out.jsonl")
    assert "'role 10'" not in caught.value.problem


def test_a_format_that_cannot_be_reached_is_refused_with_those_that_can(place: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be converted to text") as caught:
        convert_file(dataset(place / "rows.jsonl", ROWS["messages"]), "text", place / "out.jsonl")

    assert "as it is, or be converted to sharegpt" in caught.value.fix
    assert [path.name for path in place.iterdir()] == ["rows.jsonl"]


def test_text_which_becomes_nothing_else_can_be_trained_on_as_it_is(place: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be converted to messages") as caught:
        convert_file(dataset(place / "rows.jsonl", ROWS["text"]), "messages", place / "out.jsonl")

    assert caught.value.fix == "It can be trained on as it is."


@pytest.mark.parametrize("name", ["out.xml", "out", "out.jsonl.gz"])
def test_an_ending_that_says_no_container_is_refused_unless_one_is_given(place: Path, name: str) -> None:
    source = dataset(place / "rows.jsonl", ROWS["text"])

    with pytest.raises(DatasetError, match="does not say by its ending") as caught:
        convert_file(source, "text", place / name)

    assert "--container" in caught.value.fix
    assert not (place / name).exists()
    assert convert_file(source, "text", place / name, "json").container == "json"


def test_a_directory_that_is_not_there_can_be_made_with_the_command_of_the_fix(place: Path) -> None:
    source = dataset(place / "rows.jsonl", ROWS["text"])

    with pytest.raises(DatasetError, match="no directory") as caught:
        convert_file(source, "text", place / "no such" / "out.jsonl")

    assert f"mkdir -p '{place}/no such'" in caught.value.fix


def test_fields_that_the_format_does_not_use_are_left_out_and_told(place: Path) -> None:
    source = dataset(place / "rows.jsonl", [{"text": "a", "id": 1}, {"text": "b", "source": "web"}])

    written = convert_file(source, "text", place / "out.jsonl")

    assert written.left_out == ("id", "source")
    assert [row for _, _, row, _ in rows_of(place / "out.jsonl")] == [{"text": "a"}, {"text": "b"}]


def test_a_container_that_changes_a_row_is_found_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(rows: Any, form: Format, path: Path) -> None:
        path.write_text("".join(json.dumps({"text": row["text"].strip()}) + "\n" for row in rows))

    monkeypatch.setitem(write._WRITERS, "jsonl", careless)
    source = place / "rows.jsonl"
    source.write_text('{"text": "a"}\n\n{"text": " b"}\n')

    with pytest.raises(DatasetError, match="row of line 3 cannot be written as jsonl"):
        convert_file(source, "text", place / "out.jsonl")
    assert [path.name for path in place.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_the_row_that_a_container_cannot_hold_is_named_wherever_it_stands(place: Path, bad: int) -> None:
    texts = ["one", "two", "three"]
    texts[bad] += "\0"

    with pytest.raises(DatasetError, match=f"row of line {bad + 1} cannot be written as csv"):
        convert_file(dataset(place / "rows.jsonl", [{"text": text} for text in texts]), "text", place / "out.csv")


def test_calls_that_parquet_has_no_columns_for_are_refused(place: Path) -> None:
    call = {"type": "function", "function": {"name": "hours", "arguments": {}}, "weight": 2}
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    source = dataset(place / "rows.jsonl", [{"messages": messages}])

    with pytest.raises(DatasetError, match="row of line 1 cannot be written as parquet") as caught:
        convert_file(source, "messages", place / "out.parquet")
    assert "--container jsonl" in caught.value.fix


def test_values_of_a_type_that_parquets_columns_do_not_take_are_refused(place: Path) -> None:
    call = {"id": 7, "type": "function", "function": {"name": "hours", "arguments": {}}}
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]

    with pytest.raises(DatasetError, match="Parquet cannot hold these rows"):
        convert_file(dataset(place / "rows.jsonl", [{"messages": messages}]), "messages", place / "out.parquet")


def test_a_file_that_is_there_is_kept_unless_it_may_be_replaced(place: Path) -> None:
    source = dataset(place / "rows.jsonl", ROWS["text"])
    out = place / "out.json"
    out.write_text("mine")

    with pytest.raises(DatasetError, match="is there already") as caught:
        convert_file(source, "text", out)
    assert "--force" in caught.value.fix
    assert out.read_text() == "mine"
    convert_file(source, "text", out, replace=True)
    assert len(json.loads(out.read_text())) == 3


def test_a_file_may_be_replaced_by_its_own_conversion(place: Path) -> None:
    source = dataset(place / "rows.jsonl", ROWS["alpaca"])

    convert_file(source, "messages", source, replace=True)

    assert read_dataset(source).format == "messages"


@pytest.mark.parametrize("name", ["folder", "no/such/out.jsonl", "fifo"])
def test_a_place_that_cannot_be_written_to_is_refused(place: Path, name: str) -> None:
    (place / "folder").mkdir()
    os.mkfifo(place / "fifo")
    source = dataset(place / "rows.jsonl", ROWS["text"])

    with pytest.raises(DatasetError, match=r"is there already|no directory"):
        convert_file(source, "text", place / name, "jsonl", replace=True)


def test_csv_needs_a_name_by_which_it_is_told(place: Path) -> None:
    with pytest.raises(DatasetError, match="would not be read as CSV"):
        convert_file(dataset(place / "rows.jsonl", ROWS["text"]), "text", place / "out.txt", "csv")


def test_a_broken_disk_leaves_nothing_behind(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    source = dataset(place / "rows.jsonl", ROWS["text"])
    monkeypatch.setattr(os, "fsync", broken)

    with pytest.raises(StorageError, match="input/output error"):
        convert_file(source, "text", place / "out.jsonl")
    assert [path.name for path in place.iterdir()] == ["rows.jsonl"]


def test_progress_is_told_up_to_the_end(place: Path) -> None:
    source = dataset(place / "rows.jsonl", ROWS["text"])
    told: list[tuple[int, int]] = []

    convert_file(source, "text", place / "out.jsonl", progress=lambda done, total: told.append((done, total)))

    assert (source.stat().st_size, source.stat().st_size) in told
