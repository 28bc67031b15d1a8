"""A whole run as a user starts it, `oneseek.train`, in a process of its own; one JSON line for each journal record.

`python whole_run.py SPECIFICATION MARKS STARTED`. The specification is JSON: `root`, `models_dir`, `dataset`,
`base_models` and `settings`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import oneseek
from oneseek.events import EpochFinished, ProgressReported


def main() -> None:
    specification, marks, started = json.loads(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    with marks.open("w") as file:

        def watch(record: Any, _: Any) -> None:
            event = record.event
            mark = {"at": time.monotonic() - started, "event": type(event).__name__}
            if isinstance(event, ProgressReported):
                mark |= {"epoch": event.epoch, "step": event.step, "tokens_per_second": event.tokens_per_second}
            elif isinstance(event, EpochFinished):
                figures = {"tokens_per_second": event.tokens_per_second, "memory_bytes": event.memory_bytes}
                mark |= {"model": event.model, **figures}
            file.write(json.dumps(mark) + "\n")

        oneseek.train(**specification, watch=watch)
        file.write(json.dumps({"at": time.monotonic() - started, "event": "Done"}) + "\n")


if __name__ == "__main__":
    main()
