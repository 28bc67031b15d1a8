"""Which versions are taken in an output directory."""

from __future__ import annotations

from oneseek.files.layout import Results
from oneseek.names import version_of_file


def versions_taken(results: Results) -> set[tuple[int, int]]:
    """Versions that have an adapter, a weights or metadata file, or a run that has reserved them. The old system also
    left metadata in the family's directory itself."""
    folders = (results.family, results.weights, results.adapters)
    names = [path.name for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return {version for name in names if (version := version_of_file(name))}
