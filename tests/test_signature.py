"""model.sig: every bit of it, and of the manifest that it signs, is bound."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from oneseek.certificate import manifest, signature
from oneseek.certificate.manifest import File, Manifest
from oneseek.errors import CertificateInvalid
from oneseek.files.spelling import spelt

KEY = ec.derive_private_key(20251122, ec.SECP256R1())
OTHER = ec.derive_private_key(143025, ec.SECP256R1())
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def signed_manifest(key: ec.EllipticCurvePrivateKey = KEY) -> tuple[Manifest, bytes]:
    made = Manifest(
        run_id="run-20251122-143025",
        dna="OneSeek-7B-Zero.v1.0.aaaaaaaa.bbbbbbbb.cccccccc",
        signer=signature.public_pem(key.public_key()),
        log=None,
        files={name: File(hashlib.sha256(name.encode()).hexdigest(), len(name)) for name in ("a", "b/c")},
    )
    return made, signature.sign(made, key)


def flips(data: bytes) -> Iterator[bytes]:
    """`data` with one bit changed, for every bit."""
    for position in range(len(data)):
        for bit in range(8):
            yield data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


def with_signature(bundle: bytes, raw: bytes) -> bytes:
    document = json.loads(bundle)
    document["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(raw).decode()
    return spelt(document)


def raw_signature(bundle: bytes) -> bytes:
    return base64.b64decode(json.loads(bundle)["dsseEnvelope"]["signatures"][0]["sig"])


def test_what_was_signed_is_accepted() -> None:
    made, bundle = signed_manifest()

    signature.check(bundle, made)


def test_signing_again_gives_the_same_bytes() -> None:
    assert signed_manifest() == signed_manifest()


def test_every_flipped_bit_of_the_signature_is_refused() -> None:
    made, bundle = signed_manifest()

    for flipped in flips(bundle):
        with pytest.raises(CertificateInvalid):
            signature.check(flipped, made)


def test_every_flipped_bit_of_the_manifest_is_refused() -> None:
    made, bundle = signed_manifest()

    for flipped in flips(made.encode()):
        with pytest.raises(CertificateInvalid):
            signature.check(bundle, manifest.parse(flipped))


@settings(max_examples=200)
@given(st.data())
def test_bytes_put_in_or_taken_out_are_refused(data: st.DataObject) -> None:
    made, bundle = signed_manifest()
    start = data.draw(st.integers(0, len(bundle)))
    end = data.draw(st.integers(start, len(bundle)))
    changed = bundle[:start] + data.draw(st.binary(max_size=4)) + bundle[end:]

    if changed != bundle:
        with pytest.raises(CertificateInvalid):
            signature.check(changed, made)


def test_the_other_signature_of_the_same_key_is_refused() -> None:
    made, bundle = signed_manifest()
    r, s = decode_dss_signature(raw_signature(bundle))

    with pytest.raises(CertificateInvalid, match="spelt"):
        signature.check(with_signature(bundle, encode_dss_signature(r, ORDER - s)), made)


@pytest.mark.parametrize("raw", [b"", b"\x30\x00", encode_dss_signature(0, 0), encode_dss_signature(ORDER, ORDER)])
def test_what_is_no_signature_is_refused(raw: bytes) -> None:
    made, bundle = signed_manifest()

    with pytest.raises(CertificateInvalid):
        signature.check(with_signature(bundle, raw), made)


def test_another_keys_signature_is_refused() -> None:
    made, _ = signed_manifest()
    _, others = signed_manifest(OTHER)

    with pytest.raises(CertificateInvalid):
        signature.check(others, made)


def test_another_keys_signature_behind_the_signers_hint_is_refused() -> None:
    made, bundle = signed_manifest()
    raw = OTHER.sign(b"anything", ec.ECDSA(hashes.SHA256()))

    with pytest.raises(CertificateInvalid, match="not the signer's"):
        signature.check(with_signature(bundle, raw), made)


@pytest.mark.parametrize("signer", ["", "nobody", signature.public_pem(KEY.public_key()).replace("\n", "\r\n")])
def test_a_manifest_without_a_usable_signer_is_refused(signer: str) -> None:
    made, bundle = signed_manifest()
    nameless = msgspec.structs.replace(made, signer=signer)
    document: Any = json.loads(bundle)
    document["verificationMaterial"]["publicKey"]["hint"] = hashlib.sha256(signer.encode()).hexdigest()
    document["dsseEnvelope"]["payload"] = base64.b64encode(signature.payload(nameless)).decode()

    with pytest.raises(CertificateInvalid, match="names no signer"):
        signature.check(spelt(document), nameless)


def test_a_manifest_is_signed_with_the_key_that_it_names_or_not_at_all() -> None:
    made, _ = signed_manifest()

    with pytest.raises(ValueError, match="names"):
        signature.sign(made, OTHER)
