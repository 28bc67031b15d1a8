"""What happens before a run, in a process of its own.

`python checking.py inspect ROOT MODELS_DIR DATASET MODEL...` does what a run is checked by; `python checking.py read
DATASET` reads and validates rows. Both print a JSON object.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from case import peak_rss


def inspect(root: str, models_dir: str, dataset: str, *models: str) -> dict[str, Any]:
    from oneseek import runs
    from oneseek.config.sources import resolve
    from oneseek.files.layout import Home

    flags = {"data.dataset": dataset, "model.base_models": list(models)}
    config = resolve(file=None, environment={}, flags=flags).config
    with _whole_memory() as peak:
        _, findings = runs.inspect(config, Home(Path(root), Path(models_dir)))
    return {
        "peak_rss": peak_rss(),
        "peak_memory": max(peak),
        "torch_imported": "torch" in sys.modules,
        "errors": [finding.problem for finding in findings if finding.severity == "error"],
    }


@contextmanager
def _whole_memory() -> Iterator[list[int]]:
    """Bytes that this process and its children hold together, looked at every few hundredths of a second. What they
    share, as the code of libraries, counts once (PSS)."""
    import psutil

    seen, over = [0], threading.Event()

    def look() -> None:
        own = psutil.Process()
        while not over.wait(0.03):
            total = 0
            for process in (own, *own.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += process.memory_full_info().pss
            seen.append(total)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield seen
    finally:
        over.set()
        watching.join()


def read(dataset: str) -> dict[str, Any]:
    from oneseek.datasets.read import scan

    began = time.process_time()
    rows = scan(Path(dataset)).rows
    return {"rows_per_cpu_second": rows / (time.process_time() - began), "peak_rss": peak_rss()}


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    print(json.dumps(inspect(*arguments) if what == "inspect" else read(*arguments)))
