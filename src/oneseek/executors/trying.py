"""A process that loads a base model to find out how it would be computed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from oneseek import child
from oneseek.engine.interface import Computed
from oneseek.errors import ModelError
from oneseek.executors.worker import Failure, encode, failure

_decode: msgspec.json.Decoder[Computed | Failure] = msgspec.json.Decoder(Computed | Failure)


def try_model(path: Path) -> Computed:
    """How a training would compute the model of a directory.

    Raises:
        ModelError: it can't be loaded.
    """
    with child.running("oneseek.executors.trying", subprocess.DEVNULL) as process:
        said, _ = process.communicate(encode(str(path)) + b"\n")
    if not said:
        raise ModelError(
            f"{path.name} could not be loaded: its process ended with exit code {process.returncode}.",
            "Check that the machine has the memory for it.",
        )
    found = _decode.decode(said)
    if isinstance(found, Failure):
        raise ModelError(found.problem, found.fix)
    return found


def main() -> None:
    messages = child.begin()
    path = Path(msgspec.json.decode(sys.stdin.buffer.readline(), type=str))
    try:
        from oneseek.engine.trial import computed

        found: Computed | Failure = computed(path)
    except Exception as error:  # noqa: BLE001  whatever went wrong, who asked is told
        found = failure(error)
    messages.write(encode(found) + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()
