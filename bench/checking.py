"""What happens before a run, in a process of its own.

`python checking.py inspect ROOT MODELS_DIR DATASET MODEL...` does what a run is checked by; `python checking.py read
DATASET` reads and validates rows. Both print a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from case import peak_rss


def inspect(root: str, models_dir: str, dataset: str, *models: str) -> dict[str, Any]:
    from oneseek import runs
    from oneseek.config.sources import resolve
    from oneseek.files.layout import Home

    flags = {"data.dataset": dataset, "model.base_models": list(models)}
    config = resolve(file=None, environment={}, flags=flags).config
    _, findings = runs.inspect(config, Home(Path(root), Path(models_dir)))
    return {
        "peak_rss": peak_rss(),
        "torch_imported": "torch" in sys.modules,
        "errors": [finding.problem for finding in findings if finding.severity == "error"],
    }


def read(dataset: str) -> dict[str, Any]:
    from oneseek.datasets.read import read_dataset

    began = time.process_time()
    rows = len(read_dataset(Path(dataset)).rows)
    return {"rows_per_cpu_second": rows / (time.process_time() - began), "peak_rss": peak_rss()}


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    print(json.dumps(inspect(*arguments) if what == "inspect" else read(*arguments)))
