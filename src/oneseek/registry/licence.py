"""The licence that a base model's directory declares."""

from __future__ import annotations

from collections.abc import Mapping

from oneseek.registry.model_files import printable

_LONGEST = 100  # characters; what is longer is a sentence and no name


def licence(contents: Mapping[str, bytes]) -> str | None:
    """`license_name`, else `license`, of the front matter of README.md; None where it names none.

    contents: file name to bytes. `other` says nothing, so the name beside it counts.
    Source: https://huggingface.co/docs/hub/model-cards#model-card-metadata
    """
    text = contents.get("README.md", b"").decode(errors="replace")
    if not text.startswith("---"):
        return None
    front = text[3:].partition("\n---")[0]
    given = {
        key.strip(): value.strip().strip("\"'")
        for key, _, value in (line.partition(":") for line in front.splitlines())
    }
    named = given.get("license_name") or given.get("license") or ""
    return printable(named)[:_LONGEST] or None
