"""Names: model keys, display names, how a selection finds its base model, run ids, versions, artefact names. And how
a size is written."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Mapping
from datetime import datetime

from oneseek.errors import ConfigError, SelectionError

FAMILY = "OneSeek-7B-Zero"
SLUG = "oneseek-7b-zero"


def nothing_selected() -> SelectionError:
    """Selection comes only from an administrator; this is what every caller says when there is none."""
    return SelectionError(
        "No base models selected. Base models MUST be selected by an administrator; discovered models are never "
        "trained unasked.",
        "Select one or more: in the form, with --base-models, in BASE_MODELS, or as model.base_models in the "
        "configuration file. The page Models and oneseek models list show what is there.",
    )


def normalize_model_name(name: str) -> str:
    """The model key of a name: lower case ASCII words joined by single hyphens. A hub id counts by its last segment.

    >>> normalize_model_name("KB-Llama-3.1-8B-Swedish")
    'kb-llama-3-1-8b-swedish'
    """
    last = re.split(r"[/\\]", name.strip().rstrip("/\\"))[-1]
    ascii_only = unicodedata.normalize("NFKD", last).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only.lower()).strip("-")


def display_name(key: str, directory_name: str, declared: str | None, name_or_path: str | None) -> str:
    """What people call a model: `display_name` of its oneseek.json, else the last segment of config.json's
    `_name_or_path` where it is the same name, else the directory's name."""
    if declared and declared.strip():
        return declared.strip()
    last = re.split(r"[/\\]", (name_or_path or "").rstrip("/\\"))[-1]
    return last if last and normalize_model_name(last) == key else directory_name


def matching_keys(wanted: str, keys: Collection[str]) -> list[str]:
    """The keys that `wanted` may mean, sorted.

    Three levels, the first with a match decides: the same key; contained in a key; contained in a key when separators
    are ignored. Never the reverse: `mistral-7b-instruct` does not select `mistral-7b`.

    Raises:
        SelectionError: `wanted` is no name.
    """
    name = normalize_model_name(wanted)
    if not name:
        raise SelectionError(f"{wanted!r} is not a model name.", "Use letters and digits, as in mistral-7b-instruct.")
    bare = name.replace("-", "")
    levels = (
        [key for key in keys if key == name],
        [key for key in keys if name in key],
        [key for key in keys if bare in key.replace("-", "")],
    )
    return sorted(next((level for level in levels if level), []))


def match_selection(wanted: str, keys: Collection[str]) -> str:
    """The one of `matching_keys`.

    Raises:
        SelectionError: nothing matches (the nearest keys are named), or several do on one level (all are named).
    """
    found = matching_keys(wanted, keys)
    if len(found) == 1:
        return found[0]
    if found:
        raise SelectionError(
            f"{wanted!r} means several base models: {', '.join(found)}.", "Write the whole name of one of them."
        )
    near = difflib.get_close_matches(normalize_model_name(wanted), sorted(keys), n=3, cutoff=0.3) or sorted(keys)[:3]
    raise SelectionError(
        f"No base model matches {wanted!r}.",
        f"The nearest are: {', '.join(near)}."
        if near
        else "No base models were found; add one to the models directory (docs/base-models.md).",
    )


def nearest_name(wanted: str, known: Collection[str]) -> str | None:
    """The known name that a misspelt one most likely meant."""
    return next(iter(difflib.get_close_matches(wanted, sorted(known), n=1, cutoff=0.6)), None)


def run_id(now: datetime, attempt: int = 1) -> str:
    """`run-YYYYMMDD-HHMMSS` in the time zone of `now` (callers pass UTC); later attempts of one second get `-2`, `-3`.

    There is no colon in it: Windows refuses colons in file names.
    """
    stamp = now.strftime("run-%Y%m%d-%H%M%S")
    return stamp if attempt == 1 else f"{stamp}-{attempt}"


def is_run_id(text: str) -> bool:
    return re.fullmatch(r"run-[0-9]{8}-[0-9]{6}(-[0-9]+)?", text) is not None


def parse_version(text: str) -> tuple[int, int]:
    """`1.0` or `v1.0` as (major, minor).

    Raises:
        ConfigError: anything else.
    """
    match = re.fullmatch(r"v?([0-9]{1,6})\.([0-9]{1,6})", text.strip())
    if not match:
        raise ConfigError(f"{text!r} is not a version.", "Write it as 1.0 or v2.3.")
    return int(match[1]), int(match[2])


def next_version(taken: Collection[tuple[int, int]]) -> tuple[int, int]:
    """1.0 for the first, then one minor step above the highest."""
    if not taken:
        return 1, 0
    major, minor = max(taken)
    return major, minor + 1


def format_version(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def version_of_file(name: str) -> tuple[int, int] | None:
    """The version that a file or directory of ours belongs to, older spellings (`…v1.0..json`) included."""
    match = re.match(rf"{SLUG}-v(\d{{1,6}})\.(\d{{1,6}})(?!\d)", name)
    return (int(match[1]), int(match[2])) if match else None


def versioned(version: str, key: str = "") -> str:
    """`oneseek-7b-zero-v1.0`, or `oneseek-7b-zero-v1.0-<key>`."""
    return f"{SLUG}-v{version}" + (f"-{key}" if key else "")


def collisions(directories: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """The keys that more than one directory has, each with its directories."""
    return {key: sorted(paths) for key, paths in directories.items() if len(paths) > 1}


def size(count: int) -> str:
    """Bytes in the largest decimal unit that leaves a number of at least 1: `940 B`, `2.1 MB`, `2.94 GB`."""
    value = float(count)
    for unit, digits in (("B", 0), ("kB", 1), ("MB", 1), ("GB", 2)):
        if round(value, digits) < 1000:
            return f"{value:.{digits}f} {unit}"
        value /= 1000
    return f"{value:.2f} TB"
