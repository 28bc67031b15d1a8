"""model.sig: an OpenSSF Model Signing (OMS) bundle over every file of the manifest and the manifest itself.

manifest -> in-toto statement (payload) -> DSSE envelope, signed with ECDSA P-256 -> Sigstore bundle
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec
import rfc8785
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from oneseek.certificate.manifest import NOT_LISTED, Manifest
from oneseek.errors import CertificateInvalid, KeyRefused
from oneseek.files.spelling import spelt

_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256. With s, its difference to s is a signature too; the smaller of the two is the one spelling."""

_ECDSA = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)  # RFC 6979: sealed again, it is the same bytes


def payload(manifest: Manifest) -> bytes:
    """What is signed: the in-toto statement with the digest of every listed file, and of manifest.json."""
    digests = {name: file.sha256 for name, file in manifest.files.items()}
    digests = dict(sorted({**digests, "manifest.json": manifest.digest}.items()))
    root = hashlib.sha256(b"".join(map(bytes.fromhex, digests.values()))).hexdigest()
    statement: bytes = rfc8785.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": manifest.run_id, "digest": {"sha256": root}}],
            "predicateType": "https://model_signing/signature/v1.0",
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": list(NOT_LISTED[1:]),
                },
                "resources": [
                    {"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()
                ],
            },
        }
    )
    return statement


def sign(manifest: Manifest, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The bytes of model.sig. `manifest.signer` must be the public half of `key`."""
    if manifest.signer != public_pem(key.public_key()):
        raise ValueError("A manifest is signed with the key that it names.")
    r, s = decode_dss_signature(key.sign(_pae(payload(manifest)), _ECDSA))
    return _bundle(manifest, encode_dss_signature(r, min(s, _ORDER - s)))


def check(bundle: bytes, manifest: Manifest) -> None:
    """Whether these are the bytes of a signature over the manifest, by the key that it names.

    Raises:
        CertificateInvalid: they are not.
    """
    signature = _signature_in(bundle)
    if _bundle(manifest, signature) != bundle:
        raise CertificateInvalid(f"model.sig {_difference(bundle, manifest)}.")
    try:
        signer = public_key(manifest.signer)
    except KeyRefused as error:
        raise CertificateInvalid(f"manifest.json names no signer: {error.problem}") from error
    try:
        r, s = decode_dss_signature(signature)
        signer.verify(signature, _pae(payload(manifest)), _ECDSA)
    except (InvalidSignature, ValueError) as error:
        raise CertificateInvalid("The signature in model.sig is not the signer's over this manifest.") from error
    if encode_dss_signature(r, min(s, _ORDER - s)) != signature:
        raise CertificateInvalid("The signature in model.sig is not spelt as it was written.")


def public_pem(key: ec.EllipticCurvePublicKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


def public_key(pem: str) -> ec.EllipticCurvePublicKey:
    """A signer's public key from its PEM text, in its one spelling.

    Raises:
        KeyRefused: it is no P-256 key.
    """
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyRefused("This is not a public key in PEM form.", "Copy it from `oneseek ledger key`.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyRefused("The signer's key is not an ECDSA key on P-256.", "Copy it from `oneseek ledger key`.")
    if public_pem(key) != pem:
        raise KeyRefused("The signer's key is not spelt as OpenSSL writes it.", "Copy it from `oneseek ledger key`.")
    return key


def _pae(data: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(data), data)


def _bundle(manifest: Manifest, signature: bytes) -> bytes:
    return spelt(_document(payload(manifest), hashlib.sha256(manifest.signer.encode()).hexdigest(), signature))


def _document(signed: bytes, hint: str, signature: bytes) -> dict[str, Any]:
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(signed).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }


class _Signature(msgspec.Struct):
    sig: bytes


class _Envelope(msgspec.Struct):
    payload: bytes
    signatures: tuple[_Signature]


class _Bundle(msgspec.Struct):
    envelope: _Envelope = msgspec.field(name="dsseEnvelope")


def _signature_in(bundle: bytes) -> bytes:
    try:
        return msgspec.json.decode(bundle, type=_Bundle).envelope.signatures[0].sig
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CertificateInvalid(f"model.sig can't be read: {error}.") from error


def _difference(bundle: bytes, manifest: Manifest) -> str:
    """What a bundle has that the manifest's would not have."""
    signed = msgspec.json.decode(bundle, type=_Bundle).envelope.payload
    if signed != payload(manifest):
        return "does not list exactly the files of manifest.json with their digests"
    return "is not spelt as it was written (another key's hint, white space, order, or free bits)"
