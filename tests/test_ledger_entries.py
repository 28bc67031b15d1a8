from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.errors import ProofInvalid
from oneseek.ledger.entry import Statement, encode, entry_of, stamped, statement_of
from oneseek.ledger.tiles import LARGEST_ENTRY

STATEMENT = Statement(
    run_id="run-20251122-143025",
    dna="OneSeek-7B-Zero.v1.0.8f3a2b1c.5d6e7f80.91a2b3c4",
    base_models=("kb-llama-3-1-8b-swedish", "mistral-7b"),
    final_weights={"kb-llama-3-1-8b-swedish": 0.75, "mistral-7b": 0.25},
    manifest_sha256="ab" * 32,
)
WHEN = "2025-11-22T14:35:00.123Z"
ENTRY = stamped(STATEMENT, WHEN)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
statements = st.builds(
    Statement,
    run_id=text,
    dna=text,
    base_models=st.lists(text, max_size=4).map(tuple),
    final_weights=st.dictionaries(text, st.floats(allow_nan=False, allow_infinity=False), max_size=4),
    manifest_sha256=text,
)


def test_a_statement_is_spelt_as_rfc_8785_says() -> None:
    assert encode(STATEMENT) == (
        b'{"baseModels":["kb-llama-3-1-8b-swedish","mistral-7b"],"dna":"OneSeek-7B-Zero.v1.0.8f3a2b1c.5d6e7f80.91a2b3c4",'
        b'"event":"dna_v2_training_completed","final_weights":{"kb-llama-3-1-8b-swedish":0.75,"mistral-7b":0.25},'
        b'"manifest_sha256":"abababababababababababababababababababababababababababababababab",'
        b'"run_id":"run-20251122-143025"}'
    )


@given(statements)
def test_a_statement_and_its_entry_are_read_back(statement: Statement) -> None:
    entry = stamped(statement, WHEN)

    assert statement_of(encode(statement)) == statement
    assert entry_of(encode(entry)) == entry
    assert entry.statement == statement
    assert type(entry.statement) is Statement
    assert json.loads(encode(entry)) == {**json.loads(encode(statement)), "timestamp": WHEN}


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(data: str) -> str:
        assert old in data
        return data.replace(old, new, 1)

    return change


MISSPELT = {
    "nothing": lambda _: "",
    "not JSON": lambda data: data[:-1],
    "a list": lambda data: f"[{data}]",
    "a string": json.dumps,
    "null": lambda _: "null",
    "white space before": lambda data: f" {data}",
    "a newline behind": lambda data: f"{data}\n",
    "a second document": lambda data: data + data,
    "a byte order mark": lambda data: f"\ufeff{data}",
    "white space inside": replaced(":", ": "),
    "indented": lambda data: json.dumps(json.loads(data), indent=2),
    "another order": lambda data: json.dumps(dict(reversed(json.loads(data).items())), separators=(",", ":")),
    "another order of weights": replaced(
        '"kb-llama-3-1-8b-swedish":0.75,"mistral-7b":0.25', '"mistral-7b":0.25,"kb-llama-3-1-8b-swedish":0.75'
    ),
    "a key twice": replaced('"dna"', '"dna":"another","dna"'),
    "a key twice with one value": replaced('"run_id"', '"run_id":"run-20251122-143025","run_id"'),
    "a weight twice": replaced('"mistral-7b":0.25', '"mistral-7b":0.25,"mistral-7b":0.25'),
    "an unknown field": replaced('"run_id"', '"note":"","run_id"'),
    "a missing field": replaced('"run_id":"run-20251122-143025"', '"dna":""'),
    "no event": replaced('"event":"dna_v2_training_completed",', ""),
    "another event": replaced("training_completed", "training_started"),
    "an escaped letter": replaced("mistral", "\\u006distral"),
    "an escaped slash": replaced("mistral", "mis\\/tral"),
    "half a surrogate pair": replaced("mistral", "mis\\ud800tral"),
    "a trailing zero": replaced("0.75", "0.750"),
    "an exponent": replaced("0.75", "75e-2"),
    "a point": replaced("0.75", "1.0"),
    "a negative zero": replaced("0.75", "-0"),
    "a plus sign": replaced("0.75", "+0.75"),
    "no leading zero": replaced("0.75", ".75"),
    "too many digits": replaced("0.75", "0.75000000000000000001"),
    "a number in quotes": replaced("0.75", '"0.75"'),
    "NaN": replaced("0.75", "NaN"),
    "infinity": replaced("0.75", "Infinity"),
    "a number too large": replaced("0.75", "1e999"),
    "a large whole number": replaced("0.75", "12345678901234567891"),
    "null for a number": replaced("0.75", "null"),
    "true for a number": replaced("0.75", "true"),
    "a number for a text": replaced('"run-20251122-143025"', "1"),
    "a text for a list": replaced('["kb-llama-3-1-8b-swedish","mistral-7b"]', '"mistral-7b"'),
    "deep": replaced('["kb-llama-3-1-8b-swedish","mistral-7b"]', "[" * 30000 + "]" * 30000),
}


@pytest.mark.parametrize("change", MISSPELT.values(), ids=MISSPELT)
def test_any_other_spelling_is_refused(change: Callable[[str], str]) -> None:
    for said, read in ((STATEMENT, statement_of), (ENTRY, entry_of)):
        with pytest.raises(ProofInvalid, match=r"^This (is no )?ledger (statement|entry)"):
            read(change(encode(said).decode()).encode())


def test_what_is_not_utf_8_is_refused() -> None:
    with pytest.raises(ProofInvalid, match="This is no ledger entry"):
        entry_of(encode(ENTRY).replace(b"mistral", b"mis\xfftral"))


def test_every_flipped_bit_of_an_entry_is_another_entry_or_refused() -> None:
    data = encode(ENTRY)

    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            other = entry_of(bytes(flipped))
        except ProofInvalid:
            continue
        assert other != ENTRY


def test_an_entry_is_no_statement_and_a_statement_no_entry() -> None:
    with pytest.raises(ProofInvalid, match=r"no ledger statement: .*timestamp"):
        statement_of(encode(ENTRY))
    with pytest.raises(ProofInvalid, match=r"no ledger entry: .*timestamp"):
        entry_of(encode(STATEMENT))


@pytest.mark.parametrize(
    "when",
    [
        "",
        "2025-11-22T14:35:00Z",
        "2025-11-22T14:35:00.123456Z",
        "2025-11-22T14:35:00.123",
        "2025-11-22T14:35:00.123+00:00",
        "2025-11-22 14:35:00.123Z",
        "2025-11-22T14:35:00.123z",
        "2025-11-22T14:35:00.123Z\n",
        " 2025-11-22T14:35:00.123Z",
        "2025-11-22T14:35:00.12\u0663Z",
        "12025-11-22T14:35:00.123Z",
        "yesterday",
    ],
    ids=ascii,
)
def test_a_time_in_another_form_is_refused(when: str) -> None:
    with pytest.raises(ProofInvalid, match="timestamp"):
        entry_of(encode(stamped(STATEMENT, when)))


def of_length(length: int) -> Statement:
    def named(name: str) -> Statement:
        return Statement(run_id=name, dna="", base_models=(), final_weights={}, manifest_sha256="")

    return named("x" * (length - len(encode(named("")))))


def test_the_largest_entry_fits_and_no_larger_one_is_made_or_read() -> None:
    largest = of_length(LARGEST_ENTRY)
    larger = encode(largest).replace(b"x", b"xx", 1)

    assert len(encode(largest)) == LARGEST_ENTRY
    assert statement_of(encode(largest)) == largest
    for refuse in (lambda: encode(of_length(LARGEST_ENTRY + 1)), lambda: statement_of(larger)):
        with pytest.raises(ProofInvalid, match="would take 65536 bytes in the ledger; 65535 are the most") as refused:
            refuse()
        assert refused.value.fix


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_json_has_no_number_for_is_never_written(weight: float) -> None:
    with pytest.raises(ValueError, match="not representable"):
        encode(
            Statement(run_id="r", dna="d", base_models=("a",), final_weights={"a": weight}, manifest_sha256="ab" * 32)
        )
