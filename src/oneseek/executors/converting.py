"""A process with little time and memory that writes a base model's pickled weights as safetensors."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from oneseek import child
from oneseek.errors import ModelError
from oneseek.executors.worker import Failure, encode, failure
from oneseek.files.durable import TEMP_SUFFIX, remove_directory, storage_errors

# Besides the largest file, which is mapped, copied where it has to be, and read back: torch itself takes a few GiB.
_ADDRESS_SPACE = 8 * 2**30
_COPIES = 4
_SECONDS, _BYTES_PER_SECOND = 120, 10 * 2**20
_BEAT = 0.5  # seconds

_decode: msgspec.json.Decoder[tuple[str, ...] | Failure] = msgspec.json.Decoder(tuple[str, ...] | Failure)


def convert_model(path: Path, beat: Callable[[], None] = lambda: None) -> tuple[str, ...]:
    """Write the safetensors files of a model that has only pickled ones, beside these; the names of the new files.

    Nothing in the pickle is run: it is read as tensors alone, in a process of its own. However that ends, what it had
    not finished is gone when this returns or raises.

    beat: called every half a second; what it raises ends the conversion.

    Raises:
        ModelError: it can't be read, or could not be written.
        StorageError: nothing can be written into the model's directory.
    """
    with _scratch(path) as scratch, child.running("oneseek.executors.converting", subprocess.DEVNULL) as process:
        said = _answer(process, encode((str(path), str(scratch))) + b"\n", beat)
    if not said:
        raise ModelError(
            f"{path} could not be converted: its process ended with exit code {process.returncode}.",
            "Download the model's safetensors files instead.",
        )
    found = _decode.decode(said)
    if isinstance(found, Failure):
        raise ModelError(found.problem, found.fix)
    return found


def _answer(process: subprocess.Popen[bytes], order: bytes, beat: Callable[[], None]) -> bytes:
    """What the process says in its whole life."""
    while True:
        try:
            return process.communicate(order, timeout=_BEAT)[0]
        except subprocess.TimeoutExpired:
            order = b""  # it has been sent, or the pipe goes on with the rest of it
            beat()


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """An empty directory in the model's, so that it is on the same disk, for as long as the context lasts.

    One that is there was left by a conversion that was killed together with whoever had started it.
    """
    scratch = path / f"converting{TEMP_SUFFIX}"
    with storage_errors(scratch):
        remove_directory(scratch)
        scratch.mkdir()
    try:
        yield scratch
    finally:
        with storage_errors(scratch):
            remove_directory(scratch)


def main() -> None:
    messages = child.begin()
    path, scratch = map(Path, msgspec.json.decode(sys.stdin.buffer.readline(), type=tuple[str, str]))
    sizes = [file.stat().st_size for file in path.glob("*.bin")]
    memory = _ADDRESS_SPACE + _COPIES * max(sizes, default=0)
    seconds = _SECONDS + sum(sizes) // _BYTES_PER_SECOND
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        from oneseek.engine.convert import convert

        found: tuple[str, ...] | Failure = tuple(convert(path, scratch))
    except Exception as error:  # noqa: BLE001  whatever went wrong, who asked is told
        found = failure(error)
    messages.write(encode(found) + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()
