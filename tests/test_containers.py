from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from oneseek.datasets import containers, csv_rows, json_array, parquet_rows, raw_rows
from oneseek.datasets.containers import RawRow, RowFile
from oneseek.errors import DatasetError

CHAT = [{"role": "user", "content": 'Säg "hej"'}, {"role": "assistant", "content": "hej\nhej"}]
ROW = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.text('\\"[{,}]'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


def rows_in(path: Path, content: bytes | str) -> list[RawRow]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(RowFile(path))


def good(rows: Iterable[RawRow]) -> list[tuple[int, Any]]:
    return [(row.line, json.loads(row.data)) for row in rows if not row.fault]


def bad(rows: Iterable[RawRow]) -> list[tuple[int, str]]:
    return [(row.line, row.fault.kind) for row in rows if row.fault]


def write_csv(path: Path, rows: Iterable[Iterable[Any]], **options: Any) -> list[RawRow]:
    text = io.StringIO(newline="")
    csv.writer(text, **options).writerows(rows)
    return rows_in(path, text.getvalue())


def write_parquet(path: Path, columns: dict[str, Any]) -> list[RawRow]:
    parquet.write_table(pa.table(columns), path)
    return list(RowFile(path))


# -- which container it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "container"),
    [
        ("rows.jsonl", '{"text": "a"}', "jsonl"),
        ("rows.csv", ' \n{"text": "a"}', "jsonl"),
        ("rows.txt", '[{"text": "a"}]', "json"),
        ("rows.jsonl", '\ufeff\n [{"text": "a"}]', "json"),
        ("rows.csv", "text\na", "csv"),
        ("ROWS.TSV", "\ufefftext\ta\nb\tc", "csv"),
        ("rows.data", "text\na", "jsonl"),
    ],
)
def test_the_container_is_told_by_content_first_and_then_by_ending(
    tmp_path: Path, name: str, content: str, container: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    file = RowFile(path)

    rows = list(file)

    assert rows
    assert file.container == container
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file.size_bytes == path.stat().st_size


def test_parquet_is_told_by_its_mark_and_digested_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    write_parquet(path, {"text": ["a", "b"]})
    file = RowFile(path)

    rows = list(file)

    assert good(rows) == [(1, {"text": "a"}), (2, {"text": "b"})]
    assert file.container == "parquet"
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def zipped(name: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(name, "{}")
    return archive.getvalue()


@pytest.mark.parametrize(
    ("content", "what", "fix"),
    [
        (gzip.compress(b'{"text": "a"}', mtime=0), "compressed with gzip", "gunzip -c"),
        (bz2.compress(b"a"), "compressed with bzip2", "bunzip2 -c"),
        (lzma.compress(b"a"), "compressed with xz", "xz -dc"),
        (b"\x28\xb5\x2f\xfd\0", "compressed with zstd", "zstd -dc"),
        (zipped("rows.jsonl"), "a zip archive", "unzip"),
        (zipped("[Content_Types].xml"), "an Excel workbook", "CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook", "CSV"),
    ],
    ids=["gzip", "bzip2", "xz", "zstd", "zip", "xlsx", "xls"],
)
def test_a_packed_file_is_refused_naming_what_it_is_and_the_fix(
    tmp_path: Path, content: bytes, what: str, fix: str
) -> None:
    with pytest.raises(DatasetError) as refused:
        rows_in(tmp_path / "my rows.csv", content)

    assert refused.value.problem == f"The dataset {tmp_path}/my rows.csv is {what}."
    assert fix in refused.value.fix
    assert "CSV" in fix or f"'{tmp_path}/my rows.csv'" in refused.value.fix


# -- the file itself -----------------------------------------------------------------------------------------------


def test_progress_is_told_in_bytes_up_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "BLOCK", 1 << 16)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n' * 20_000)
    told: list[tuple[int, int]] = []

    list(RowFile(path, lambda done, size: told.append((done, size))))

    done = [done for done, _ in told]
    assert done == sorted(done)
    assert len(set(done)) > 3
    assert told[-1] == (280_000, 280_000)


def test_progress_in_parquet_is_that_of_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_rows, "_AT_ONCE", 1024)
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"text": ["a"] * 4096}), path)
    told: list[tuple[int, int]] = []

    for row in RowFile(path, lambda done, size: told.append((done, size))):
        if row.line == 2048:
            break

    size = path.stat().st_size
    assert told[-1] == (size // 4, size)


@pytest.mark.parametrize("change", ["appended", "replaced", "rewritten"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n' * 3)
    rows = iter(RowFile(path))
    next(rows)
    if change == "appended":
        with path.open("a") as file:
            file.write('{"text": "b"}\n')
    else:
        (tmp_path / "new").write_text('{"text": "b"}\n' * 3)
        (tmp_path / "new").replace(path)
        if change == "rewritten":
            os.utime(path, (0, 0))

    with pytest.raises(DatasetError, match="changed while it was read"):
        list(rows)


# -- lines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_line_over_the_limit_is_told_with_its_length_and_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(raw_rows, "LONGEST_ROW", 40)
    monkeypatch.setattr(raw_rows, "BLOCK", 16)
    fits, long = '{"text": "' + "a" * 28 + '"}', '{"text": "' + "a" * 100_000 + '"}'

    rows = rows_in(tmp_path / "rows.jsonl", f"{fits}\n{long}\n{fits}\n{long}{end}")

    assert good(rows) == [(1, {"text": "a" * 28}), (3, {"text": "a" * 28})]
    assert bad(rows) == [(2, "line-too-long"), (4, "line-too-long")]
    reasons = [row.fault.reason for row in rows if row.fault]
    assert reasons[0].startswith("the row has 100,013 bytes" if end else "the row has 100,01")


# -- JSON array ----------------------------------------------------------------------------------------------------


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(ROW, min_size=1, max_size=8),
    indent=st.sampled_from([None, 0, 2]),
    block=st.integers(1, 40),
    ascii_only=st.booleans(),
)
@example(rows=['\\"', {"a": '"\\'}], indent=None, block=1, ascii_only=False)
@example(rows=[{"a": "\\", "b": "},"}, {"a": '\\"},'}, {"a": '"},'}, 1], indent=None, block=100, ascii_only=False)
@example(rows=[{"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": []}}}}}}}}}], indent=2, block=3, ascii_only=True)
def test_elements_of_an_array_are_found_wherever_blocks_end(
    tmp_path: Path, rows: list[Any], indent: int | None, block: int, ascii_only: bool
) -> None:
    content = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "BLOCK", block)

        found = rows_in(tmp_path / "rows.json", content)

    assert [row for _, row in good(found)] == rows
    assert bad(found) == []
    heights = [json.dumps(row, indent=indent).count("\n") + 1 for row in rows]
    below = [2 + sum(heights[:number]) for number in range(len(rows))]
    assert [row.line for row in found] == ([1] * len(rows) if indent is None else below)


PIECES = ['{"text": "a"}', "[", "]", "{", "}", ",", '"', "\\", "\n", " ", "å", "7"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12), block=st.integers(1, 20))
def test_a_broken_array_is_the_same_rows_whatever_the_size_of_blocks(
    tmp_path: Path, pieces: list[str], block: int
) -> None:
    path, content = tmp_path / "rows.json", "[" + "".join(pieces)
    whole = rows_in(path, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "BLOCK", block)

        found = rows_in(path, content)

    assert found == whole


@pytest.mark.parametrize("block", [3, 64, 1 << 20])
def test_an_element_over_the_limit_is_told_with_its_length_and_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(json_array, "LONGEST_ROW", 60)
    monkeypatch.setattr(json_array, "BLOCK", block)
    long = {"text": ["\n[{,}]\\", {"deep": 'b"' * 100}] * 9, "tail": [[1], {}]}
    element = json.dumps(long, indent=1)

    rows = rows_in(tmp_path / "rows.json", f'[{{"text": "a"}},\n {element} ,\n{{"text": "b"}},\n{element}]')

    first_ends = 2 + element.count("\n")
    assert good(rows) == [(1, {"text": "a"}), (first_ends + 1, {"text": "b"})]
    assert bad(rows) == [(2, "line-too-long"), (first_ends + 2, "line-too-long")]
    sizes = [int(row.fault.reason.split()[3].replace(",", "")) for row in rows if row.fault]
    assert sizes == [len(element) + 1, len(element)]


def test_an_element_over_the_limit_that_never_ends_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_array, "LONGEST_ROW", 60)
    monkeypatch.setattr(json_array, "BLOCK", 16)

    rows = rows_in(tmp_path / "rows.json", '[{"text": "a"}, {"text": "' + "b" * 500)

    assert bad(rows) == [(1, "line-too-long")]


# -- CSV -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_is_read_with_its_header_whatever_parts_its_cells(tmp_path: Path, delimiter: str, end: str) -> None:
    cells = [["prompt", "completion"], ['a, "b"; c\td', "e\nf"], ["g", "h"], [], ["i", "j"]]

    rows = write_csv(tmp_path / "rows.csv", cells, delimiter=delimiter, lineterminator=end)

    assert good(rows) == [
        (2, {"prompt": 'a, "b"; c\td', "completion": "e\nf"}),
        (4, {"prompt": "g", "completion": "h"}),
        (6, {"prompt": "i", "completion": "j"}),
    ]
    assert bad(rows) == []


def test_a_byte_order_mark_and_empty_lines_before_the_header_are_no_part_of_it(tmp_path: Path) -> None:
    rows = rows_in(tmp_path / "rows.csv", '\ufeff\r\n"text";id\r\na;1\r\n')

    assert good(rows) == [(3, {"text": "a", "id": "1"})]


def test_an_empty_cell_is_an_absent_field_and_a_column_without_a_name_is_none(tmp_path: Path) -> None:
    rows = write_csv(tmp_path / "rows.csv", [["instruction", "", "output"], ["a", "x", ""], ["b"]])

    assert good(rows) == [(2, {"instruction": "a"}), (3, {"instruction": "b"})]


def test_cells_that_hold_messages_are_decoded_and_json_that_is_text_stays_text(tmp_path: Path) -> None:
    header = ["messages", "tools", "prompt", "completion", "text", "chosen"]
    cells = [json.dumps(CHAT), '{"name": "f"}', '{"a": 1}', '[{"role": "user"}]', '{"b": [2]}', json.dumps(CHAT[1:])]

    rows = write_csv(tmp_path / "rows.csv", [header, cells, ["[broken", "", "[INST] a", "", "", "[]"]])

    assert good(rows) == [
        (
            2,
            {
                "messages": CHAT,
                "tools": {"name": "f"},
                "prompt": '{"a": 1}',
                "completion": '[{"role": "user"}]',
                "text": '{"b": [2]}',
                "chosen": CHAT[1:],
            },
        ),
        (3, {"messages": "[broken", "prompt": "[INST] a", "chosen": "[]"}),
    ]


def test_the_history_of_alpaca_is_json_and_its_texts_are_not(tmp_path: Path) -> None:
    cells = ['[["q", "a"]]', "[1] and", "[2]", "{}"]

    rows = write_csv(tmp_path / "rows.csv", [["history", "instruction", "input", "output"], cells])

    assert good(rows) == [(2, {"history": [["q", "a"]], "instruction": "[1] and", "input": "[2]", "output": "{}"})]


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ('"te"xt,b', "',' expected after '\"'"),
        ('"text,b', "a quote is never closed"),
        ("text" * 20, "the row has 81 bytes, and at most 70 are read"),
    ],
    ids=["broken", "never closed", "too long"],
)
def test_a_csv_header_that_cannot_be_read_is_refused_and_the_next_row_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str, why: str
) -> None:
    monkeypatch.setattr(raw_rows, "LONGEST_ROW", 70)
    path = tmp_path / "rows.csv"

    with pytest.raises(DatasetError) as refused:
        rows_in(path, f"{header}\ntext\nhello\n")

    assert refused.value.problem == f"The header of {path} cannot be read: {why}."
    assert "first line" in refused.value.fix


def test_what_is_no_csv_is_told_by_its_line_and_spoils_no_other_row(tmp_path: Path) -> None:
    content = 'text,id\ngood,1\na,b,c\n"x"y,2\ngood,3\n"never closed,4\nlost,5\n'

    rows = rows_in(tmp_path / "rows.csv", content)

    assert [line for line, _ in good(rows)] == [2, 5]
    assert bad(rows) == [(3, "broken-csv"), (4, "broken-csv"), (6, "broken-csv")]


def test_bytes_of_csv_that_are_not_utf8_pass_to_the_row_and_nul_is_told(tmp_path: Path) -> None:
    rows = rows_in(tmp_path / "rows.csv", b"text,id\nbl\xe4ck,1\nfisk,2\na\0b,3\n")

    assert rows[0] == RawRow(2, b'{"text": "bl\xe4ck", "id": "1"}')
    assert good(rows[1:]) == [(3, {"text": "fisk", "id": "2"})]
    assert bad(rows) == [(4, "nul-byte")]


def test_a_cell_of_json_stays_json_beside_one_that_is_not_utf8(tmp_path: Path) -> None:
    rows = rows_in(tmp_path / "rows.csv", b'id;messages\nbl\xe4;[{"role": "user"}]\n')

    assert [row.data for row in rows] == [b'{"id": "bl\xe4", "messages": [{"role": "user"}]}']


def test_a_cell_over_the_limit_and_a_line_over_the_limit_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_rows, "LONGEST_ROW", 400)
    monkeypatch.setattr(csv_rows, "_LONGEST_CELL", 50)

    rows = write_csv(tmp_path / "rows.csv", [["text"], ["a"], ["b" * 60], ["c" * 500], ["d"], ["e" * 500]])

    assert [row for _, row in good(rows)] == [{"text": "a"}, {"text": "d"}]
    assert sorted(bad(rows)) == [(3, "line-too-long"), (4, "line-too-long"), (6, "line-too-long")]


def test_a_cell_may_be_longer_than_the_csv_module_allows_by_itself(tmp_path: Path) -> None:
    rows = write_csv(tmp_path / "rows.csv", [["text"], ["a" * 1_000_000]])

    assert good(rows) == [(2, {"text": "a" * 1_000_000})]


def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="names the column 'text' twice"):
        rows_in(tmp_path / "rows.csv", "text,id,text\na,b,c\n")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)] * 2), max_size=5
    )
)
def test_what_a_csv_writer_writes_is_read_back(tmp_path: Path, cells: list[tuple[str, str]]) -> None:
    rows = write_csv(tmp_path / "rows.csv", [("text", "id"), *cells], quoting=csv.QUOTE_ALL)

    assert [row for _, row in good(rows)] == [{"text": text, "id": number} for text, number in cells]


# -- Parquet -------------------------------------------------------------------------------------------------------


def test_parquet_gives_nested_rows_without_what_is_null(tmp_path: Path) -> None:
    calls = [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}]

    rows = write_parquet(tmp_path / "rows.parquet", {"messages": [CHAT, calls, None], "id": [1, None, 3]})

    assert good(rows) == [
        (1, {"messages": CHAT, "id": 1}),
        (2, {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]}),
        (3, {"id": 3}),
    ]


NAMED = pa.struct({"name": pa.string(), "number": pa.int64()})
NESTED = pa.schema(
    {
        "texts": pa.list_(pa.large_string()),
        "pair": pa.list_(NAMED, 2),
        "objects": pa.large_list(NAMED),
        "deep": pa.list_(pa.struct({"id": pa.string(), "inner": NAMED, "more": pa.list_(NAMED)})),
    }
)
TURNS = pa.list_(pa.struct({"at": pa.date32(), "text": pa.binary()}))
TEXTS, NUMBERS = st.none() | st.text(max_size=3), st.none() | st.integers(-(2**63), 2**63 - 1)
OBJECTS = st.none() | st.fixed_dictionaries({"name": TEXTS, "number": NUMBERS})
LISTS = st.none() | st.lists(OBJECTS, max_size=3)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "texts": st.none() | st.lists(TEXTS, max_size=3),
                "pair": st.none() | st.lists(OBJECTS, min_size=2, max_size=2),
                "objects": LISTS,
                "deep": st.none()
                | st.lists(
                    st.none() | st.fixed_dictionaries({"id": TEXTS, "inner": OBJECTS, "more": LISTS}), max_size=2
                ),
            }
        ),
        min_size=1,
        max_size=6,
    )
)
def test_nested_parquet_is_what_was_written_but_for_what_is_null_in_objects(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    parquet.write_table(pa.Table.from_pylist(rows, NESTED), tmp_path / "rows.parquet")

    found = [row for _, row in good(RowFile(tmp_path / "rows.parquet"))]

    assert found == [stated(row) for row in rows]


def stated(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: stated(item) for name, item in value.items() if item is not None}
    return [stated(item) for item in value] if isinstance(value, list) else value


def test_dates_and_bytes_inside_lists_and_objects_of_parquet_become_text_too(tmp_path: Path) -> None:
    turns = pa.array([[{"at": 20_000, "text": b"a"}, {"at": None, "text": None}]], TURNS)

    rows = write_parquet(tmp_path / "rows.parquet", {"turns": turns})

    assert good(rows) == [(1, {"turns": [{"at": "2024-10-04", "text": "a"}, {}]})]


def test_dates_and_decimals_of_parquet_become_text_and_bytes_what_they_are_in_utf8(tmp_path: Path) -> None:
    columns = {
        "when": pa.array([datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)], pa.timestamp("ns", "UTC")),
        "price": pa.array([Decimal("1.50")]),
        "text": pa.array(["blå".encode()]),
        "image": pa.array([b"\xff\xd8"]),
        "share": pa.array([float("nan")]),
    }

    rows = write_parquet(tmp_path / "rows.parquet", columns)

    assert good(rows) == [
        (
            1,
            {
                "when": "2025-01-02 03:04:05.000000000Z",
                "price": "1.50",
                "text": "blå",
                "image": {"bytes": 2},
                "share": None,
            },
        )
    ]


def test_a_date_that_python_does_not_have_is_no_reason_to_stop(tmp_path: Path) -> None:
    rows = write_parquet(tmp_path / "rows.parquet", {"when": pa.array([2**30], pa.date32()), "text": ["a"]})

    assert [row["text"] for _, row in good(rows)] == ["a"]


def test_rows_of_many_row_groups_are_numbered_through(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"text": [str(n) for n in range(5000)]}), path, row_group_size=700)

    rows = good(RowFile(path))

    assert rows == [(n + 1, {"text": str(n)}) for n in range(5000)]


@pytest.mark.parametrize("keep", [4, 100, -1])
def test_parquet_that_is_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(path, {"text": ["a" * 50] * 10})
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(DatasetError) as refused:
        list(RowFile(path))

    assert refused.value.problem.startswith(f"The dataset {path} can't be read as Parquet: ")
    assert "None" not in refused.value.problem


def test_a_row_of_parquet_over_the_limit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_rows, "LONGEST_ROW", 60)

    rows = write_parquet(tmp_path / "rows.parquet", {"text": ["a", "b" * 60, "c"]})

    assert [line for line, _ in good(rows)] == [1, 3]
    assert bad(rows) == [(2, "line-too-long")]
