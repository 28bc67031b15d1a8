"""Write the generated parts of the pages in docs/. `--check` writes nothing and exits 1 when one is out of date."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from oneseek.config import reference
from oneseek.preflight import reference as rules
from oneseek.server import reference as api

DOCS = Path(__file__).parent

PAGES: dict[str, Callable[[str], str]] = {
    "configuration.md": reference.page,
    "rules.md": rules.page,
    "api.md": api.page,
}


def outdated(docs: Path) -> dict[Path, str]:
    """The pages whose generated part is not what the code says now, each with the text that it should have."""
    texts = {docs / name: make((docs / name).read_text(encoding="utf-8")) for name, make in PAGES.items()}
    return {path: text for path, text in texts.items() if text != path.read_text(encoding="utf-8")}


def main(arguments: list[str], docs: Path = DOCS) -> int:
    """Exit status: 0 when every page is, or has been made, up to date."""
    differing = outdated(docs)
    for path, text in differing.items():
        if "--check" in arguments:
            sys.stderr.write(f"{path} is out of date: run `make docs`.\n")
        else:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{path} written\n")
    return 1 if differing and "--check" in arguments else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
