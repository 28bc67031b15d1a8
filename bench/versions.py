"""`python versions.py PACKAGE...` prints the versions of packages in the environment of that Python.

A package whose files are not all there says so: what is measured with it is not what its authors released.
"""

from __future__ import annotations

import sys
from importlib.metadata import distribution
from pathlib import Path


def version(package: str) -> str:
    """Raises PackageNotFoundError."""
    installed = distribution(package)
    lost = sum(file.suffix != ".pyc" and not Path(str(file.locate())).exists() for file in installed.files or ())
    return f"{package} {installed.version}" + (f" without {lost} of its files" if lost else "")


if __name__ == "__main__":
    print(", ".join(map(version, sys.argv[1:])))
