"""manifest.json: exactly the files of a certified run, with their digests, who signs for them, and in which log."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec

from oneseek.errors import CertificateInvalid
from oneseek.files.spelling import spelt

FORMAT = "oneseek-manifest@v1"
NOT_LISTED = ("manifest.json", "model.sig", "ledger_proof.json")
"""What is made after the manifest, in this order."""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`sha256` in hex, `size` in bytes."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size: Annotated[int, msgspec.Meta(ge=0)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`files` by their path in the run directory, with slashes, sorted.

    `signer` is the public key (PEM) that the signature is by. `log` is the public key of the ledger that the run is
    entered in; None where the ledger could not be asked for it.
    """

    format: str = FORMAT
    run_id: str
    dna: str
    signer: str
    log: str | None
    files: dict[str, File]

    def encode(self) -> bytes:
        document: dict[str, Any] = msgspec.to_builtins(self)
        return spelt({**document, "files": dict(sorted(document["files"].items()))})

    @property
    def digest(self) -> str:
        """SHA-256 of the file, in hex: what the ledger keeps."""
        return hashlib.sha256(self.encode()).hexdigest()


def parse(data: bytes) -> Manifest:
    """A manifest from its bytes, in their one spelling.

    Raises:
        CertificateInvalid: they are none.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CertificateInvalid(f"manifest.json can't be read: {error}.") from error
    if manifest.format != FORMAT:
        raise CertificateInvalid(
            f"manifest.json has the format {manifest.format!r}; this release knows {FORMAT!r}.",
            "Verify it with a newer release.",
        )
    if manifest.encode() != data:
        raise CertificateInvalid("manifest.json is not spelt as it was written (white space, order, or a key twice).")
    return manifest
