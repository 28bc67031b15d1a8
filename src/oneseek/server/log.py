"""What a server logs: one JSON object a line on standard error, without the secrets that it was told."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, Any

LEVELS = ("debug", "info", "warning", "error")

_SHORTEST = 8  # characters of a secret: a shorter value would be found in every other word
_OURS = re.compile(r"(?:os[kls]_|hf_)[A-Za-z0-9_-]{8,}|(?i:bearer) +[!-~]+")
_NAMED_SECRET = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSPHRASE|_KEY)$")
_HIDDEN = "[secret]"
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def begin(level: str, environment: Mapping[str, str], stream: IO[str] | None = None) -> None:
    """Let everything that is logged in this process go to standard error, or to another stream.

    level: of LEVELS, for what OneSeek logs; of others, warnings and worse are.
    environment: what its variables hold that are named like secrets is not written.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(Lines(environment))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("oneseek").setLevel(level.upper())
    logging.captureWarnings(True)


class Lines(logging.Formatter):
    """A record as {"time", "level", "logger", "event"} with its extra fields, and "error" where it has a traceback.
    Only ASCII is written, control characters escaped: no terminal is commanded by it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__()
        held = {value for name, value in environment.items() if _NAMED_SECRET.search(name) and len(value) >= _SHORTEST}
        known = [re.escape(value) for value in sorted(held, key=len, reverse=True)]  # one may begin with another
        self._secrets = re.compile("|".join([*known, _OURS.pattern]))

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        said = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        said |= {name: value for name, value in record.__dict__.items() if name not in _PLAIN | said.keys()}
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(self._without_secrets(said))

    def _without_secrets(self, value: Any) -> Any:
        """The same as plain JSON, which has no NaN."""
        if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
            return value
        if isinstance(value, Mapping):
            return {self._without_secrets(str(name)): self._without_secrets(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._without_secrets(each) for each in value]
        return self._secrets.sub(_HIDDEN, str(value))
