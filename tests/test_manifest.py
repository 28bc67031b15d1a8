"""manifest.json has one spelling, and nothing in it that a manifest does not have."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.certificate import manifest
from oneseek.certificate.manifest import File, Manifest
from oneseek.errors import CertificateInvalid
from oneseek.files.spelling import spelt

DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
TEXTS = st.text(st.characters(codec="utf-8"))
MANIFESTS = st.builds(
    Manifest,
    run_id=TEXTS,
    dna=TEXTS,
    signer=TEXTS,
    log=st.none() | TEXTS,
    files=st.dictionaries(TEXTS, st.builds(File, sha256=DIGESTS, size=st.integers(0, 2**62))),
)


def small() -> Manifest:
    files = {"recipe.json": File("a" * 64, 3), "journal.jsonl": File("b" * 64, 7)}
    return Manifest(run_id="run-20251122-143025", dna="OneSeek", signer="PEM", log=None, files=files)


@given(MANIFESTS)
def test_a_manifest_is_read_as_it_was_written(written: Manifest) -> None:
    assert manifest.parse(written.encode()) == written


def test_the_files_are_listed_in_order() -> None:
    listed = list(json.loads(small().encode())["files"])

    assert listed == ["journal.jsonl", "recipe.json"]


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document | {"comment": "more"},
        lambda document: document | {"files": {"a": {"sha256": "a" * 64, "size": 1, "mode": 420}}},
        lambda document: document | {"files": {"a": {"sha256": "a" * 63, "size": 1}}},
        lambda document: document | {"files": {"a": {"sha256": "A" * 64, "size": 1}}},
        lambda document: document | {"files": {"a": {"sha256": "a" * 64 + "\n", "size": 1}}},
        lambda document: document | {"files": {"a": {"sha256": "a" * 64, "size": -1}}},
        lambda document: document | {"files": {"a": {"sha256": "a" * 64, "size": 1.0}}},
        lambda document: document | {"format": "oneseek-manifest@v2"},
        lambda document: {name: value for name, value in document.items() if name != "log"},
        lambda document: dict(reversed(document.items())),
        lambda document: document | {"files": dict(reversed(document["files"].items()))},
    ],
    ids=[
        "unknown-field",
        "unknown-field-of-a-file",
        "short-digest",
        "upper-case-digest",
        "digest-and-newline",
        "negative-size",
        "size-with-a-point",
        "newer-format",
        "no-log",
        "other-order",
        "files-in-other-order",
    ],
)
def test_what_no_manifest_has_is_refused(change: Any) -> None:
    with pytest.raises(CertificateInvalid):
        manifest.parse(spelt(change(json.loads(small().encode()))))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data + b"\n",
        lambda data: data.replace(b'"size": 3', b'"size":  3'),
        lambda data: data.replace(b'"run_id": "run', b'"run_id": "\\u0072un'),
        lambda data: data.replace(b'"size": 3', b'"size": 3,\n      "size": 3'),
        lambda data: data.replace(b'"run-', b'"\\ud800'),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: b"\xff" + data,
        lambda data: b"[" * 100_000,
        lambda data: b"",
    ],
    ids=[
        "no-newline",
        "two-newlines",
        "white-space",
        "escaped",
        "key-twice",
        "surrogate",
        "byte-order-mark",
        "not-utf8",
        "deep",
        "empty",
    ],
)
def test_another_spelling_is_refused(change: Any) -> None:
    with pytest.raises(CertificateInvalid, match=r"manifest\.json"):
        manifest.parse(change(small().encode()))
