from __future__ import annotations

import base64
import hashlib
import traceback
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from oneseek.errors import KeyRefused, ProofInvalid
from oneseek.ledger.note import SignerKey, VerifierKey, decode64, encode64, text_of

SEED = bytes(range(1, 33))
KEY = SignerKey("example.com/log", SEED)
TEXT = "example.com/log\n3\nsome text, räksmörgås\n"
NOTE = KEY.sign(TEXT)

names = st.text(st.characters(exclude_characters="+", exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=20)
seeds = st.binary(min_size=32, max_size=32)


def test_a_note_that_was_signed_is_opened() -> None:
    assert text_of(NOTE, KEY.verifier) == TEXT


def test_a_note_is_spelt_as_the_specification_says() -> None:
    public = KEY.verifier.public
    key_hash = hashlib.sha256(b"example.com/log\n\x01" + public).digest()[:4]

    text, line = NOTE.split("\n\n")

    assert f"{text}\n" == TEXT
    assert line.startswith("\u2014 example.com/log ")
    assert line.endswith("\n")
    signature = base64.b64decode(line.split(" ")[2])
    assert signature[:4] == key_hash
    assert len(signature) == 4 + 64


def test_the_note_in_the_documentation_of_gos_package_is_opened() -> None:
    key = VerifierKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signature = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="

    assert text_of(f"{text}\n\u2014 PeterNeumann {signature}\n", key) == text


@given(names, seeds)
def test_keys_are_read_back_from_their_texts(name: str, seed: bytes) -> None:
    key = SignerKey(name, seed)

    assert SignerKey.parse(key.text()) == key
    assert VerifierKey.parse(str(key.verifier)) == key.verifier


PUBLIC = str(KEY.verifier)
PRIVATE = KEY.text()


def misspelt(text: str, prefix: str = "") -> list[str]:
    """Texts that are nearly the text of a key."""
    name, key_hash, key = text.removeprefix(prefix).split("+", 2)
    other = encode64(b"\x02" + base64.b64decode(key)[1:])
    return [
        "",
        f"{text}\n",
        f" {text}",
        f"{text} ",
        f"{text}=",
        f"{text}+",
        text[:-1],
        text[:-4],
        f"{prefix}+{key_hash}+{key}",
        f"{prefix}other{name}+{key_hash}+{key}",
        f"{prefix}{name}+00000000+{key}",
        f"{prefix}{name}+{key_hash.upper()}+{key}",
        f"{prefix}{name}+0{key_hash}+{key}",
        f"{prefix}{name}+{key_hash}+{other}",
        f"{prefix}{name}+{key_hash}+{key.lower()}",
        f"{prefix}{name}+{key_hash}+{key[:20]}\n{key[20:]}",
        f"{prefix}{name}+{key_hash}+{key[:-1]}\u00e5",
        f"{prefix}{name}++{key}",
        f"{prefix}{name}+{key_hash}",
        f"{prefix}{name} {key_hash} {key}",
        *(f"{prefix}na{bad}me+{key_hash}+{key}" for bad in " +\t\n\x00\x1b\u00a0\u2028\ud800"),
    ]


@pytest.mark.parametrize("text", [*misspelt(PUBLIC), PRIVATE, f"# {PRIVATE}"], ids=lambda text: ascii(text)[:60])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(KeyRefused, match="is not a log's public key") as refused:
        VerifierKey.parse(text)

    assert PRIVATE[-40:] not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [*misspelt(PRIVATE, "PRIVATE+KEY+"), PUBLIC, PRIVATE.removeprefix("PRIVATE+KEY+"), f"PRIVATE+KEY+{PRIVATE}"],
    ids=range(len(misspelt(PRIVATE, "PRIVATE+KEY+")) + 3),
)
def test_what_is_no_private_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(KeyRefused) as refused:
        SignerKey.parse(text)

    told = "".join(traceback.format_exception(refused.value, chain=True))
    assert str(refused.value).startswith("This is not a log's private key.")
    assert text == "" or text not in told.split("KeyRefused:")[-1]
    assert refused.value.__cause__ is refused.value.__context__ is None


@pytest.mark.parametrize("name", ["", *(f"na{bad}me" for bad in " +\t\n\x00\x1b\u0085\u00a0\u2028")], ids=ascii)
def test_a_key_with_a_name_that_no_note_may_have_is_refused(name: str) -> None:
    key = SignerKey(name, SEED)

    with pytest.raises(KeyRefused):
        VerifierKey.parse(str(key.verifier))
    with pytest.raises(KeyRefused):
        SignerKey.parse(key.text())


def test_every_changed_character_of_a_key_is_noticed() -> None:
    for text, parse in ((PUBLIC, VerifierKey.parse), (PRIVATE, SignerKey.parse)):
        for at, was in enumerate(text):
            changed = text[:at] + chr(ord(was) ^ 1) + text[at + 1 :]
            with pytest.raises(KeyRefused):
                parse(changed)


@pytest.mark.parametrize("show", [repr, str, pretty_repr, "{}".format, "{!r}".format], ids=range(5))
def test_a_private_key_that_is_shown_tells_nothing_of_its_seed(show: Callable[[object], str]) -> None:
    shown = show([KEY, {"key": KEY}])

    assert "example.com/log" in shown
    for secret in (repr(SEED)[2:-1], SEED.hex(), encode64(SEED), PRIVATE[-40:], "seed"):
        assert secret not in shown


def test_a_note_by_another_key_is_refused() -> None:
    same_name = SignerKey("example.com/log", bytes(32))
    same_seed = SignerKey("example.com/other", SEED)

    for other in (same_name, same_seed):
        with pytest.raises(ProofInvalid, match="signed by another key"):
            text_of(other.sign(TEXT), KEY.verifier)


def test_a_key_that_only_shares_name_and_hash_is_refused() -> None:
    text = NOTE.split("\n\n")[0]
    other = SignerKey("example.com/log", bytes(32)).sign(TEXT).split("\n\n")[1]
    forged = KEY.verifier.hash + base64.b64decode(other.split(" ")[2])[4:]

    with pytest.raises(ProofInvalid, match="not valid for its text"):
        text_of(f"{text}\n\n\u2014 example.com/log {encode64(forged)}\n", KEY.verifier)


def test_every_flipped_bit_of_a_note_is_noticed() -> None:
    note = NOTE.encode()

    for bit in range(8 * len(note)):
        flipped = bytearray(note)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProofInvalid):
            text_of(flipped.decode(errors="surrogateescape"), KEY.verifier)


def lines_changed(note: str) -> list[str]:
    lines = note.splitlines(keepends=True)
    dropped = ["".join(lines[:at] + lines[at + 1 :]) for at in range(len(lines))]
    doubled = ["".join([*lines[:at], line, *lines[at:]]) for at, line in enumerate(lines)]
    return dropped + doubled


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        TEXT,
        NOTE.rstrip("\n"),
        f"{NOTE}\n",
        f"{NOTE} ",
        f"\ufeff{NOTE}",
        NOTE.replace("\n", "\r\n"),
        NOTE.replace("\u2014", "-"),
        NOTE.replace("\u2014 ", "\u2014  "),
        NOTE.replace("\u2014 ", "\u2014\u00a0"),
        NOTE.replace("=\n", "==\n"),
        NOTE.replace("=\n", "\n"),
        NOTE.replace("=\n", " =\n"),
        NOTE + SignerKey("witness.example", bytes(32)).sign(TEXT).split("\n\n")[1],
        NOTE.replace("\u2014", SignerKey("w", bytes(32)).sign(TEXT).split("\n\n")[1] + "\u2014"),
        *lines_changed(NOTE),
    ],
    ids=range(16 + len(lines_changed(NOTE))),
)
def test_a_note_in_any_other_spelling_is_refused(note: str) -> None:
    with pytest.raises(ProofInvalid):
        text_of(note, KEY.verifier)


def test_a_signature_that_is_the_same_to_a_careless_verifier_is_refused() -> None:
    """An Ed25519 signature (R, s) has a twin (R, s + L), which RFC 8032 says is none."""
    order = 2**252 + 27742317777372353535851937790883648493
    text, line = NOTE.split("\n\n")
    signature = base64.b64decode(line.split(" ")[2])
    twin = (int.from_bytes(signature[36:], "little") + order).to_bytes(32, "little")

    with pytest.raises(ProofInvalid, match="not valid for its text"):
        text_of(f"{text}\n\n\u2014 example.com/log {encode64(signature[:36] + twin)}\n", KEY.verifier)


@pytest.mark.parametrize("length", [0, 3, 4, 67, 69, 100])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    text, line = NOTE.split("\n\n")
    signature = (base64.b64decode(line.split(" ")[2]) * 2)[:length]

    with pytest.raises(ProofInvalid):
        text_of(f"{text}\n\n\u2014 example.com/log {encode64(signature)}\n", KEY.verifier)


def test_a_text_with_empty_lines_ends_at_the_last_of_them() -> None:
    text = "first\n\nsecond\n\n\nthird\n"

    assert text_of(KEY.sign(text), KEY.verifier) == text


def test_a_name_from_outside_is_shown_without_its_control_characters() -> None:
    evil = NOTE.replace("\u2014 example.com/log", "\u2014 \x9b31mevil")

    with pytest.raises(ProofInvalid) as refused:
        text_of(evil, KEY.verifier)

    assert str(refused.value).isprintable()


@given(st.binary(max_size=40))
def test_base64_has_one_spelling(data: bytes) -> None:
    text = encode64(data)

    assert decode64(text, "it") == data
    for other in (f"{text}\n", f" {text}", f"{text}=", f"{text}A", text.rstrip("=") if "=" in text else f"{text}=="):
        with pytest.raises(ProofInvalid):
            decode64(other, "it")


@pytest.mark.parametrize("text", ["QR==", "QUJ=", "//9=", "Q-==", "_w==", "Q\u00c5==", "\u0661===", "=", "QQ=A"])
def test_base64_with_free_bits_or_other_characters_is_refused(text: str) -> None:
    with pytest.raises(ProofInvalid, match=r"^A hash "):
        decode64(text, "a hash")
