"""The one spelling of a JSON document that people read too: two spaces, keys as given, UTF-8, a newline at the end."""

from __future__ import annotations

import json
from typing import Any


def spelt(document: Any) -> bytes:
    """`document` as JSON. NaN is refused (ValueError): JSON has no such number."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
