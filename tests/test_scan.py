from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oneseek.datasets import read
from oneseek.datasets.formats import row_digest
from oneseek.datasets.quarantine import quarantine
from oneseek.datasets.read import read_dataset, scan
from oneseek.datasets.scan import Duplicates, ProblemGroup, RowProblem
from oneseek.errors import DatasetError, StorageError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def texts(path: Path, values: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": value}) + "\n" for value in values))
    return path


def test_a_scan_describes_what_reading_the_rows_gives(data: Path) -> None:
    data.write_text('{"text": "a", "id": 7}\n\n{"text": ""}\n{"text": "longer"}\n')

    found, rows = scan(data), read_dataset(data)

    assert (found.path, found.container, found.format, found.rows) == (str(data), "jsonl", "text", 2)
    assert found.sha256 == rows.sha256 == hashlib.sha256(data.read_bytes()).hexdigest()
    assert found.size_bytes == data.stat().st_size
    assert found.lines.tolist() == rows.lines.tolist() == [1, 4]
    assert found.digests.tolist() == rows.digests.tolist()
    assert found.digests.dtype == np.uint64
    assert found.lines.dtype == np.uint32
    whole = [row_digest({"text": text}) for text in ("a", "longer")]
    assert found.rows_sha256 == rows.rows_sha256 == hashlib.sha256(b"".join(whole)).hexdigest()
    assert found.longest_row == len('{"text":"longer"}')
    assert found.bad_rows == 1
    assert found.first == ({"text": "a", "id": 7}, {"text": ""}, {"text": "longer"})


def test_bad_rows_are_counted_by_kind_and_three_of_each_are_shown(data: Path) -> None:
    data.write_text('{"text": "a"}\n' + '{"text": ""}\n{"text"\n' * 5)

    problems = scan(data).problems

    empty = tuple(RowProblem(line, "'text' is empty") for line in (2, 4, 6))
    broken = tuple(RowProblem(line, "broken JSON: it ends too early") for line in (3, 5, 7))
    assert problems == (
        ProblemGroup(kind="empty-content", count=5, examples=empty),
        ProblemGroup(kind="broken-json", count=5, examples=broken),
    )


def test_a_dataset_without_a_usable_row_is_described_and_one_without_a_format_is_refused(data: Path) -> None:
    data.write_text('{"text": ""}\n')

    found = scan(data)

    assert (found.rows, found.longest_row, found.samples, found.duplicates) == (0, None, (), Duplicates(0, ()))
    data.write_text('{"a": 1}\n')
    with pytest.raises(DatasetError, match="line 1: the row has no known format"):
        scan(data)


# -- samples -------------------------------------------------------------------------------------------------------


def test_samples_are_all_rows_where_there_are_no_more(data: Path) -> None:
    found = scan(texts(data, [str(n) for n in range(20)]), drawn=20)

    assert [(sample.index, sample.line, sample.row) for sample in found.samples] == [
        (n, n + 1, {"text": str(n)}) for n in range(20)
    ]
    assert found.samples_are_all


def test_samples_hold_the_longest_rows_and_some_drawn_by_the_seed(data: Path) -> None:
    texts(data, ["a" * (1 + n * 7 % 500) for n in range(500)])

    found, again, other = (
        scan(data, longest=10, drawn=20),
        scan(data, longest=10, drawn=20),
        scan(data, seed=1, drawn=20),
    )

    lengths = [len(sample.row["text"]) for sample in found.samples]
    assert set(range(491, 501)) <= set(lengths)
    assert 20 < len(found.samples) <= 30
    assert not found.samples_are_all
    assert found.samples == again.samples
    assert found.samples != other.samples
    assert [sample.index for sample in found.samples] == sorted(sample.index for sample in found.samples)


def test_of_rows_of_one_length_the_first_are_the_longest(data: Path) -> None:
    found = scan(texts(data, ["b", "a", "bb", "aa", "cc"]), longest=2, drawn=0)

    assert [sample.index for sample in found.samples] == [2, 3]


def test_every_row_is_drawn_as_often_as_any_other(data: Path) -> None:
    texts(data, [str(n) for n in range(40)])

    often = Counter(
        sample.index for seed in range(400) for sample in scan(data, seed=seed, longest=0, drawn=10).samples
    )

    assert set(often) == set(range(40))
    assert all(60 <= count <= 140 for count in often.values())  # 100 expected, standard deviation 9


def test_samples_that_would_take_much_memory_are_fewer(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_HELD", 1000)
    texts(data, ["a" * (100 + n) for n in range(100)])

    longest, drawn = scan(data, longest=50, drawn=0), scan(data, longest=0, drawn=50)

    assert [sample.index for sample in longest.samples] == [96, 97, 98, 99]
    assert 4 <= len(drawn.samples) <= 8
    assert len(scan(texts(data, ["a" * 5000]), drawn=5).samples) == 1


def test_a_row_does_not_come_in_where_a_longer_one_had_to_leave(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_HELD", 1000)

    found = scan(texts(data, ["a" * 400, "b" * 400, "c" * 400, "d"]), longest=10, drawn=0)

    assert [sample.index for sample in found.samples] == [0, 1]


def test_a_sample_keeps_the_order_of_its_fields(data: Path) -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"z": 1, "a": 2}}}]
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    data.write_text(json.dumps({"messages": messages}))

    (sample,) = scan(data).samples

    assert list(sample.row["messages"][1]["tool_calls"][0]["function"]["arguments"]) == ["z", "a"]


# -- duplicates ----------------------------------------------------------------------------------------------------


def test_duplicates_are_rows_that_equal_an_earlier_one(data: Path) -> None:
    found = scan(texts(data, ["a", "b", "a", "c", "b", "a", "a"])).duplicates

    assert found == Duplicates(4, ((3, 1), (5, 2), (6, 1)))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=30))
def test_duplicates_are_those_that_a_look_at_every_row_finds(data: Path, values: list[str]) -> None:
    found = scan(texts(data, values)).duplicates

    again = [(line, values.index(value) + 1) for line, value in enumerate(values, 1) if value in values[: line - 1]]
    assert found == Duplicates(len(again), tuple(again[:3]))


# -- memory --------------------------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from pathlib import Path
from oneseek.datasets.read import scan
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = scan(Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, found.rows, found.bad_rows)
"""


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_a_large_file_with_one_broken_line_takes_little_memory(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    array = ending == "json"
    row = json.dumps({"text": "words and more words " * 100}).encode() + (b",\n" if array else b"\n")
    with path.open("wb") as file:
        file.write(b"[" if array else b"")
        file.write(row * 10_000)
        file.write(b'{"text": nope}' + (b",\n" if array else b"\n"))
        file.write(row * 10_000)
        file.write(b'{"text": "end"}]' if array else b"")

    answer = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True).stdout

    grown, rows, bad_rows = map(int, answer.split())
    assert path.stat().st_size > 40_000_000
    assert (rows, bad_rows) == (20_000 + array, 1)
    assert grown < 20_000  # KiB


# -- quarantine ----------------------------------------------------------------------------------------------------


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_quarantine_keeps_every_bad_row_with_line_kind_and_reason(data: Path, tmp_path: Path) -> None:
    data.write_bytes(b'{"text": "a"}\n{"text": ""}\n{"text": "bl\xe4"}\n\n{"text"\n')

    count = quarantine(data, tmp_path / "run" / "quarantine.jsonl")

    assert count == 3
    assert records(tmp_path / "run" / "quarantine.jsonl") == [
        {"line": 2, "kind": "empty-content", "reason": "'text' is empty", "row": '{"text": ""}'},
        {
            "line": 3,
            "kind": "not-utf8",
            "reason": "not UTF-8 (byte 0xE4 at byte 12 of the row)",
            "row_base64": "eyJ0ZXh0IjogImJs5CJ9",
        },
        {"line": 5, "kind": "broken-json", "reason": "broken JSON: it ends too early", "row": '{"text"'},
    ]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["quarantine.jsonl"]


def test_a_row_of_csv_is_kept_as_json_and_where_there_is_no_row_nothing_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion\na,b\nc,\nd,e,f\n")

    quarantine(path, tmp_path / "bad.jsonl")

    missing, extra = records(tmp_path / "bad.jsonl")
    assert (missing["line"], missing["row"]) == (3, '{"prompt":"c"}')
    assert extra == {"line": 4, "kind": "broken-csv", "reason": "the row has 3 cells, the header 2"}


def test_without_bad_rows_nothing_is_written(data: Path, tmp_path: Path) -> None:
    assert quarantine(texts(data, ["a"]), tmp_path / "bad.jsonl") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_quarantine_that_cannot_be_read_or_written_leaves_nothing_behind(data: Path, tmp_path: Path) -> None:
    data.write_text('{"a": 1}\n')
    with pytest.raises(DatasetError):
        quarantine(data, tmp_path / "bad.jsonl")

    data.write_text('{"text": "a"}\n{"a": 1}\n')
    (tmp_path / "bad.jsonl").mkdir()
    with pytest.raises(StorageError):
        quarantine(data, tmp_path / "bad.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "rows.jsonl"]
