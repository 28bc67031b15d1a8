"""The signer's key: made once, whole, for its owner alone; and every other kind is refused with a fix."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from oneseek.certificate.keys import Pins, known_signer, pins_in, pins_of, signer_key
from oneseek.certificate.signature import public_pem
from oneseek.errors import KeyRefused, StorageError
from oneseek.files import durable, secrets
from oneseek.files.layout import Home
from oneseek.ledger.keys import log_key
from oneseek.ledger.note import SignerKey
from support.closed import close

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
PlainPrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, tmp_path / "models")


def pem(key: PlainPrivateKey, password: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(PEM, PKCS8, hidden)


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def keep(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def race(processes: int, work: Callable[[], str]) -> list[str]:
    """What `work` says in each of so many processes that begin at once."""
    start_reading, start = os.pipe()
    answers = []
    for _ in range(processes):
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.close(start)
            os.read(start_reading, 1)  # ends when the parent closes its side
            os.write(writing, work().encode())
            os._exit(0)
        os.close(writing)
        answers.append(reading)
    os.close(start)
    said = []
    for reading in answers:
        with open(reading, "rb") as file:  # noqa: PTH123  a descriptor
            said.append(file.read().decode())
        os.wait()
    os.close(start_reading)
    return said


def test_the_key_is_made_on_first_use_for_its_owner_alone(home: Home) -> None:
    made = signer_key(home, {})

    assert stat.S_IMODE(home.signer_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o700
    assert list(home.keys.iterdir()) == [home.signer_key]
    assert home.signer_key.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert signer_key(home, {}).private_numbers() == made.private_numbers()


def test_processes_that_make_it_at_once_end_with_one_key(home: Home) -> None:
    said = race(8, lambda: public_pem(signer_key(home, {}).public_key()))

    assert set(said) == {known_signer(home, {})}
    assert list(home.keys.iterdir()) == [home.signer_key]


def test_a_key_that_appears_while_one_is_made_is_the_one_that_counts(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pem(p256())
    create = durable.create_exclusively

    def create_a_moment_late(path: Path, data: bytes, mode: int) -> bool:
        made = create(path, data, mode=mode)
        keep(home.signer_key, first)
        return made

    monkeypatch.setattr(secrets, "create_exclusively", create_a_moment_late)

    key = signer_key(home, {})

    assert pem(key) == first
    assert list(home.keys.iterdir()) == [home.signer_key]


@pytest.mark.parametrize("links", [True, False])
def test_whoever_is_killed_while_a_key_is_made_leaves_no_part_and_no_copy_of_it(
    home: Home, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", unsupported)
    calls, died = 0, True
    while died:
        calls += 1
        child = os.fork()
        if child == 0:
            die_after(calls)
            signer_key(home, {})
            os._exit(0)
        died = os.waitpid(child, 0)[1] != 0

        signer_key(home, {})
        assert list(home.keys.iterdir()) == [home.signer_key]
        shutil.rmtree(home.keys)
    assert calls > 4


def test_whoever_comes_second_to_make_a_key_writes_none(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(home.signer_key, pem(p256()))
    monkeypatch.setattr(secrets, "create_exclusively", pytest.fail)

    assert not secrets.keep_secret(home.signer_key, b"second")
    assert list(home.keys.iterdir()) == [home.signer_key]


def die_after(calls: int) -> None:
    """End this process right after so many calls that leave something behind."""
    left = calls

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            result = call(*args, **kwargs)
            left -= 1
            if not left:
                os._exit(1)
            return result

        return wrapper

    for name in ("open", "fsync", "mkdir", "link", "replace"):
        setattr(os, name, dying(getattr(os, name)))


def test_a_full_disk_leaves_no_part_of_a_key(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    home.keys.mkdir(mode=0o700)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="no space is left"):
            signer_key(home, {})

    assert not any(home.keys.iterdir())
    assert signer_key(home, {})


def test_the_folder_of_the_first_key_is_on_disk(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_directory", synced.append)

    signer_key(home, {})

    assert home.root in synced


@pytest.mark.parametrize("ask", [signer_key, known_signer])
def test_keys_that_may_not_be_looked_at_are_not_taken_for_none(
    home: Home, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Home, dict[str, str]], object]
) -> None:
    signer_key(home, {})
    close(home.keys, monkeypatch)

    with pytest.raises(StorageError, match=r"run-signer\.pem can't be read: Permission denied") as refused:
        ask(home, {})

    assert "permission to read" in refused.value.fix


def test_keys_that_may_not_be_looked_at_are_no_pins(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    signer_key(home, {})
    log_key(home)
    close(home.keys, monkeypatch)

    assert pins_of(home, {"LEDGER_PRIVATE_KEY_PATH": str(home.signer_key)}) == Pins(frozenset(), frozenset())


@pytest.mark.parametrize("spoilt", ["signer", "log", "services"])
def test_a_key_that_cannot_be_used_is_no_pin_and_the_others_are(home: Home, spoilt: str) -> None:
    signer, log = public_pem(signer_key(home, {}).public_key()), str(log_key(home).verifier)
    service = str(SignerKey("ledger.example.org", bytes(32)).verifier)
    home.known_logs.write_text(f"https://ledger.example.org {service}\n")
    match spoilt:
        case "signer":
            home.signer_key.chmod(0o640)
        case "log":
            home.log_key.write_text("")
        case _:
            home.known_logs.write_text("https://ledger.example.org nonsense\n")

    found = pins_of(home, {})

    assert found.signers == ({signer} - {signer if spoilt == "signer" else ""})
    assert found.logs == {log, service} - {{"log": log, "services": service}.get(spoilt, "")}


def test_no_key_is_made_to_tell_which_it_is(home: Home) -> None:
    assert known_signer(home, {}) is None
    assert pins_of(home, {}) == Pins(frozenset(), frozenset())
    assert not home.keys.exists()


def test_a_named_key_is_read_and_none_is_made(home: Home, tmp_path: Path) -> None:
    key = p256()
    environment = {"LEDGER_PRIVATE_KEY_PATH": str(keep(tmp_path / "mine.pem", pem(key)))}

    found = signer_key(home, environment)

    assert found.private_numbers() == key.private_numbers()
    assert known_signer(home, environment) == public_pem(key.public_key())
    assert not home.keys.exists()


def test_a_named_key_that_is_not_there_is_refused_not_made(home: Home, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"

    with pytest.raises(KeyRefused, match=r"missing\.pem cannot be read") as refused:
        signer_key(home, {"LEDGER_PRIVATE_KEY_PATH": str(missing)})

    assert refused.value.fix
    assert not missing.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700 | 0o010])
def test_a_key_that_others_may_use_is_refused_with_the_command_that_closes_it(home: Home, mode: int) -> None:
    keep(home.signer_key, pem(p256()), mode)

    with pytest.raises(KeyRefused, match="others than its owner") as refused:
        signer_key(home, {})

    assert refused.value.fix == f"Run: chmod 600 {home.signer_key}"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a private key in PEM"),
        (b"0\x82 not a key at all", "not a private key in PEM"),
        (pem(p256())[:100], "not a private key in PEM"),
        (pem(p256(), password=b"secret"), "is encrypted"),
        (public_pem(p256().public_key()).encode(), "is a public key"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "an ECDSA key on secp384r1"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "an Ed25519 key"),
        (pem(rsa.generate_private_key(65537, 2048)), "an RSA key"),
    ],
    ids=["empty", "der", "cut", "encrypted", "public", "p384", "ed25519", "rsa"],
)
def test_what_is_no_p256_key_is_refused_with_what_it_is_and_a_fix(home: Home, content: bytes, problem: str) -> None:
    keep(home.signer_key, content)

    with pytest.raises(KeyRefused, match=problem) as refused:
        signer_key(home, {})

    assert str(home.signer_key) in refused.value.problem
    assert refused.value.fix
    assert home.signer_key.read_bytes() == content


def test_a_key_in_openssls_older_form_is_as_good(home: Home) -> None:
    key = p256()
    older = key.private_bytes(PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    keep(home.signer_key, older)

    assert signer_key(home, {}).private_numbers() == key.private_numbers()


def test_pins_are_found_between_other_lines() -> None:
    signers = [public_pem(p256().public_key()) for _ in range(2)]
    log = str(SignerKey("ledger.example.org/log", bytes(32)).verifier)
    text = f"# the signer\n{signers[0]}\n# and another\n{signers[1]}# the log\n{log}\n"

    assert pins_in(text) == Pins(frozenset(signers), frozenset([log]), bound=frozenset(signers))
    assert pins_in(text.replace("\n", "\r\n")) == pins_in(text)
    assert pins_in(signers[0].rstrip()) == Pins(frozenset(signers[:1]), frozenset())


def test_a_key_in_a_comment_is_not_pinned() -> None:
    signer, log = public_pem(p256().public_key()), str(SignerKey("stolen-log", bytes(32)).verifier)
    commented = "".join(f"# {line}\n" for line in signer.splitlines())

    with pytest.raises(KeyRefused):
        pins_in(f"# revoked: {log}\n{commented}# {log}\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing here\n",
        pem(p256()).decode(),
        public_pem(p256().public_key()).replace("M", "N", 1),
        public_pem(ec.generate_private_key(ec.SECP384R1()).public_key()),
        f"{SignerKey('log', bytes(32)).verifier}".replace("A", "B", 1),
        f"{SignerKey('log', bytes(32)).verifier}".replace("log+", "gol+"),
    ],
    ids=["empty", "words", "private", "damaged", "p384", "damaged-log", "renamed-log"],
)
def test_a_text_without_a_whole_public_key_pins_nothing(text: str) -> None:
    with pytest.raises(KeyRefused) as refused:
        pins_in(text)

    assert refused.value.fix


def test_a_home_trusts_its_own_keys_the_named_one_and_the_ledgers_it_used(home: Home, tmp_path: Path) -> None:
    own, log, named = signer_key(home, {}), log_key(home), p256()
    service = SignerKey("ledger.example.org", bytes(32)).verifier
    home.known_logs.write_text(f"https://ledger.example.org:8080 {service}\n")
    environment = {"LEDGER_PRIVATE_KEY_PATH": str(keep(tmp_path / "named.pem", pem(named)))}

    found = pins_of(home, environment)

    assert found.signers == {public_pem(own.public_key()), public_pem(named.public_key())}
    assert found.logs == {str(log.verifier), str(service)}
