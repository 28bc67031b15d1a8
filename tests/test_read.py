from __future__ import annotations

import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oneseek.datasets.formats import COLUMNS_OF, FIELDS_OF, row_digest
from oneseek.datasets.read import Dataset, JudgedRow, read_dataset, rows_of
from oneseek.errors import DatasetError

CHAT = {"messages": [{"role": "user", "content": "Hur mår du?"}, {"role": "assistant", "content": "Bra 😀"}]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def read(path: Path, content: bytes | str) -> Dataset:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_dataset(path)


def bad(path: Path) -> list[tuple[int, str, str]]:
    """Line, kind and reason of every row that cannot be used."""
    return [(row.line, row.fault.kind, row.fault.reason) for row in rows_of(path) if row.fault]


def refusal(path: Path, content: bytes | str) -> DatasetError:
    with pytest.raises(DatasetError) as refused:
        read(path, content)
    return refused.value


def test_jsonl_is_read_with_its_lines_and_the_digest_of_its_bytes(data: Path) -> None:
    content = '{"text": "ett", "id": 1}\n\n  \r\n{"text": "två"}\r\n{"text": "tre"}'

    dataset = read(data, content)

    assert dataset.rows == ({"text": "ett"}, {"text": "två"}, {"text": "tre"})
    assert dataset.lines.tolist() == [1, 4, 5]
    assert bad(data) == []
    assert dataset.format == "text"
    assert dataset.path == str(data)
    assert dataset.sha256 == hashlib.sha256(content.encode()).hexdigest()


def test_a_byte_order_mark_is_no_part_of_the_first_row_but_of_the_digest(data: Path) -> None:
    content = b'\xef\xbb\xbf{"text": "ett"}\n'

    dataset = read(data, content)

    assert dataset.rows == ({"text": "ett"},)
    assert dataset.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("start", ["", "\ufeff", "\n \n", "\ufeff\n"])
@pytest.mark.parametrize("indent", [None, 0, 2])
def test_a_json_array_is_read_with_the_line_on_which_each_element_starts(
    data: Path, start: str, indent: int | None
) -> None:
    rows: list[dict[str, Any]] = [{"text": 'ett, [tv\\å] "tre"\n{'}, {"text": "fyra"}, {"x": [1, 2], "text": "fem"}]
    content = start + json.dumps(rows, indent=indent, ensure_ascii=False)

    dataset = read(data, content)

    expected = [number for number, line in enumerate(content.split("\n"), 1) if line in ("{", "  {")]
    assert dataset.rows == tuple({"text": row["text"]} for row in rows)
    assert dataset.lines.tolist() == (expected or [content.count("\n") + 1] * 3)
    assert bad(data) == []
    assert dataset.sha256 == hashlib.sha256(content.encode()).hexdigest()


def test_every_bad_row_is_reported_with_its_line_and_reason(data: Path) -> None:
    lines = [
        b'{"name": "unknown"}',
        b'{"text": "good"}',
        b'{"text": "half',
        b'{"text": "a" "b"}',
        b'{"text": "\xe5"}',
        b'{"text": "a\0b"}',
        b'{"text": ""}',
        b'["text"]',
        b"",
        b'{"text": "\\ud83d"}',
        b'{"text": 1e999}',
        b'{"prompt": "a", "completion": "b"}',
        b'{"text": "good too"}',
    ]

    dataset = read(data, b"\n".join(lines))

    found = {line: (kind, reason) for line, kind, reason in bad(data)}
    assert dataset.lines.tolist() == [2, 13]
    assert found == {
        1: ("no-known-format", "the row has no known format (fields: 'name')"),
        3: ("broken-json", "broken JSON: it ends too early"),
        4: found[4],
        5: ("not-utf8", "not UTF-8 (byte 0xE5 at byte 10 of the row)"),
        6: ("nul-byte", "NUL byte (at byte 11 of the row)"),
        7: ("empty-content", "'text' is empty"),
        8: ("wrong-type", "the row is a list, not an object"),
        10: ("surrogate", "broken JSON: half of a surrogate pair, which is not a character"),
        11: ("broken-json", "broken JSON: number out of range"),
        12: ("other-format", "the row's format is prompt_completion, the dataset's is text"),
    }
    assert found[4][1].startswith("broken JSON: ")


@pytest.mark.parametrize(
    ("content", "rows", "problems"),
    [
        ('[{"text": "a"},\n{"text": nope},\n{"text": "b"}]', 2, [(2, "broken JSON: invalid character")]),
        ('[{"text": "a"}],\n{"text": "b"}]', 1, [(1, "more after the end of the array")]),
        ('[{"text": "a"},\n\n,{"text": "b"}]', 2, [(3, "a comma with no row before it")]),
        ('[{"text": "a"},\n]', 1, [(2, "a comma with no row after it")]),
        ('[{"text": "a"}\n{"text": "b"},{"text": "c"}]', 1, [(1, "broken JSON: trailing characters")]),
        ('[{"text": "a"},\n{"text": "b"}', 2, [(2, "the file ends before the array does")]),
        ('[{"text": "a"},\n{"text": "b', 1, [(2, "it ends too early")]),
        ('[{"text": "a"}, {"text": "b"], {"text": "c"}]', 2, [(1, "broken JSON")]),
        ('[{"text": "a"}, 7, null]', 1, [(1, "a number, not an object"), (1, "null, not an object")]),
        ('[{"text": "a"}]\n{"text": "b"}', 1, [(2, "more after the end of the array")]),
    ],
)
def test_a_broken_element_of_an_array_spoils_no_other(
    data: Path, content: str, rows: int, problems: list[tuple[int, str]]
) -> None:
    dataset = read(data, content)

    assert len(dataset.rows) == rows
    assert [line for line, _, _ in bad(data)] == [line for line, _ in problems]
    assert all(words in reason for (_, _, reason), (_, words) in zip(bad(data), problems, strict=True))


def test_the_format_is_that_of_the_first_row_that_has_one_even_if_it_is_bad(data: Path) -> None:
    dataset = read(data, '{"a": 1}\n{"messages": []}\n{"text": "a"}\n' + json.dumps(CHAT))

    assert dataset.format == "messages"
    assert dataset.rows == (CHAT,)
    assert [line for line, _, _ in bad(data)] == [1, 2, 3]


def test_preferences_of_text_and_of_messages_do_not_mix(data: Path) -> None:
    plain = {"prompt": "Hur mår du?", "chosen": "Bra 😀", "rejected": "Vad?"}
    chat = {
        "prompt": CHAT["messages"][:1],
        "chosen": CHAT["messages"][1:],
        "rejected": [{"role": "assistant", "content": "Vad?"}],
    }

    dataset = read(data, "\n".join(json.dumps(row) for row in ({**chat, "id": 1}, plain, chat)))

    assert dataset.format == "preference_chat"
    assert dataset.rows == (chat, chat)
    assert [line for line, _, _ in bad(data)] == [2]


def test_a_dataset_whose_rows_are_all_bad_still_says_why(data: Path) -> None:
    dataset = read(data, '{"text": ""}\n')

    assert dataset.rows == ()
    assert bad(data) == [(1, "empty-content", "'text' is empty")]


def test_a_judged_row_holds_its_bytes_and_what_they_decode_to(data: Path) -> None:
    data.write_text('{"text": "a", "id": 1}\n {"text"')

    good, broken = rows_of(data)

    assert good == JudgedRow(1, b'{"text": "a", "id": 1}', {"text": "a", "id": 1}, None)
    assert broken[:3] == (2, b'{"text"', None)
    assert broken.fault is not None


def test_rows_that_changed_since_they_were_read_before_are_refused_after_the_last(data: Path) -> None:
    before = read(data, '{"text": "a"}\n').sha256

    assert len(list(rows_of(data, sha256=before))) == 1
    for content in ('{"text": "b"}\n', '{"other": 1}\n'):
        data.write_text(content)
        again = rows_of(data, sha256=before)
        next(again)
        with pytest.raises(DatasetError, match=f"The dataset {data} changed after it was first read"):
            next(again)


def test_digests_are_the_first_bytes_of_those_of_the_normalised_rows(data: Path) -> None:
    dataset = read(data, '{"text": "a", "id": 1}\n{"id": 2, "text": "a"}\n{"text": "b"}')

    whole = [row_digest({"text": text}) for text in "aab"]
    assert dataset.digests.tolist() == [int.from_bytes(digest[:8], "big") for digest in whole]
    assert dataset.rows_sha256 == hashlib.sha256(b"".join(whole)).hexdigest()


@pytest.mark.parametrize("content", [b"", b"\n \r\n\t", b"\xef\xbb\xbf", b"[]", b" [\n] \n"])
def test_a_file_without_rows_is_refused_as_empty(data: Path, content: bytes) -> None:
    error = refusal(data, content)

    assert error.problem == f"The dataset {data} is empty."
    assert error.fix


@pytest.mark.parametrize(
    ("mark", "codec", "encoding"),
    [
        (b"\xff\xfe", "utf-16-le", "UTF-16"),
        (b"\xfe\xff", "utf-16-be", "UTF-16"),
        (b"\xff\xfe\0\0", "utf-32-le", "UTF-32"),
        (b"\0\0\xfe\xff", "utf-32-be", "UTF-32"),
    ],
)
def test_utf_16_is_recognised_and_the_fix_converts_it(data: Path, mark: bytes, codec: str, encoding: str) -> None:
    error = refusal(data, mark + '{"text": "hej"}'.encode(codec))

    assert error.problem == f"The dataset {data} is {encoding}, not UTF-8."
    assert error.fix == f"Convert it: iconv -f {encoding} -t UTF-8 {data} > utf8.jsonl"


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n\0",
        b"SQLite format 3\0",
        bytes(100),
        "bläckfisk".encode("latin-1"),
    ],
)
def test_a_file_that_is_not_text_is_refused_as_such(data: Path, content: bytes) -> None:
    error = refusal(data, content)

    assert error.problem == f"The dataset {data} is not text (binary data)."
    assert "UTF-8" in error.fix


def test_a_character_that_the_first_block_cuts_in_two_is_no_fault(data: Path) -> None:
    error = refusal(data, b"x" * (2**16 - 1) + "å".encode())

    assert "line 1: broken JSON" in error.problem


def test_rows_of_an_unknown_format_are_refused_naming_the_fields_found(data: Path) -> None:
    error = refusal(data, 'oj\n{"question": "a", "answer": "b"}\n{"text": null}\n')

    known = "the row has no known format (fields: 'question', 'answer')"
    assert error.problem == f"No row of {data} can be used; line 2: {known}."
    assert "`prompt` and `completion`" in error.fix
    assert "`prompt`, `chosen` and `rejected`" in error.fix


def test_the_fix_names_each_field_that_a_format_needs_and_says_nothing_twice(data: Path) -> None:
    fix = refusal(data, '{"a": 1}').fix

    ways = fix.removeprefix("Give every row ").removesuffix(".").split(", or ")
    named = {frozenset(re.findall("`([a-z]+)`", way)) for way in ways}
    assert len(named) == len(ways)
    assert {fields - {"prompt"} for fields in named} == {
        frozenset(fields) - {"prompt"} for fields in FIELDS_OF.values()
    }
    assert all(COLUMNS_OF[form].keys() >= set(fields) for form, fields in FIELDS_OF.items())


def test_a_file_of_prose_is_refused_naming_its_first_fault(data: Path) -> None:
    error = refusal(data, "Detta är ingen datamängd.\n")

    assert "line 1: broken JSON" in error.problem
    assert "JSONL" in error.fix


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="There is no dataset"):
        read_dataset(tmp_path / "none.jsonl")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_dataset(tmp_path / ("x" * 300))
    with pytest.raises(DatasetError, match="NUL"):
        read_dataset(tmp_path / "a\0b")


def test_a_file_below_a_file_is_missing(data: Path) -> None:
    data.write_text("{}")

    with pytest.raises(DatasetError, match="There is no dataset"):
        read_dataset(data / "rows.jsonl")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is a directory"):
        read_dataset(tmp_path)


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(DatasetError, match="not a regular file"):
        read_dataset(tmp_path / "pipe")


def test_a_file_without_permission_is_refused_with_the_fix(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.write_text('{"text": "a"}')

    def forbidden(*args: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)  # a mode would not stop root

    with pytest.raises(DatasetError) as refused:
        read_dataset(data)
    assert "No permission" in refused.value.problem
    assert refused.value.fix == f"Allow it: chmod u+r {data}"


@pytest.mark.parametrize(
    "content",
    [
        b'{"text": "a"}\n' + b"[" * 200_000,
        b'{"text": "a"}\n{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'[{"text": "a"}, ' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"]",
    ],
)
def test_deep_nesting_is_a_bad_row(data: Path, content: bytes) -> None:
    dataset = read(data, content)

    assert len(dataset.rows) == 1
    assert [(kind, reason) for _, kind, reason in bad(data)] == [("nested-too-deeply", "nested too deeply")]


def test_a_line_of_ten_megabytes_is_a_row(data: Path) -> None:
    dataset = read(data, b'{"text": "' + b"a" * 10_000_000 + b'"}')

    assert len(dataset.rows[0]["text"]) == 10_000_000


def test_a_string_that_is_never_closed_takes_no_quadratic_time(data: Path) -> None:
    begin = time.monotonic()

    data.write_bytes(b'[{"text": "a"}, {"text": "' + b'\\"' * 1_000_000)

    assert [reason for _, _, reason in bad(data)] == ["broken JSON: it ends too early"]
    assert time.monotonic() - begin < 10


ROW = st.fixed_dictionaries(
    {"text": st.text(min_size=1).filter(str.strip)}, optional={"x": st.integers(), "y": st.text()}
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=1, max_size=5), indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_an_array_and_jsonl_of_the_same_rows_hold_the_same(
    data: Path, rows: list[dict[str, Any]], indent: int | None, ascii_only: bool
) -> None:
    array = read(data, json.dumps(rows, indent=indent, ensure_ascii=ascii_only))
    lines = read(data, "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows))

    assert array.rows == lines.rows == tuple({"text": row["text"]} for row in rows)
    assert array.rows_sha256 == lines.rows_sha256
    assert bad(data) == []


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=60)
    | st.lists(st.sampled_from(['{"text": "a"}', "[", "]", "{", "}", ",", '"', "\\", "\n", "å", "\0", "\ufeff"])).map(
        lambda pieces: "".join(pieces).encode()
    )
)
def test_any_bytes_are_read_or_refused(data: Path, content: bytes) -> None:
    data.write_bytes(content)

    outcome = outcome_of(data)

    if isinstance(outcome, DatasetError):
        assert outcome.problem
        assert outcome.fix
        return
    assert outcome.sha256 == hashlib.sha256(content).hexdigest()
    assert len(outcome.rows) == len(outcome.lines)
    assert all(1 <= line <= content.count(b"\n") + 1 for line in outcome.lines)
    assert outcome.lines.tolist() == sorted(outcome.lines)


def outcome_of(path: Path) -> Dataset | DatasetError:
    try:
        return read_dataset(path)
    except DatasetError as error:
        return error
