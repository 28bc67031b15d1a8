"""Which versions are taken in an output directory."""

from __future__ import annotations

from oneseek.files.layout import Results
from oneseek.names import version_of_file


def versions_taken(results: Results) -> set[tuple[int, int]]:
    """Versions that have an adapter, a weights or metadata file, or a run that has reserved them."""
    names = [
        path.name for folder in (results.weights, results.adapters) if folder.is_dir() for path in folder.iterdir()
    ]
    return {version for name in names if (version := version_of_file(name))}
