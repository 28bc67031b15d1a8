"""What every test gets: no network, and a home with scripted base models where it asks for one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from pytest_socket import disable_socket

PROJECT = Path(__file__).parent.parent

if TYPE_CHECKING:
    from support.runs import Town


# There is a worker for each core: more threads of theirs, and of what they start, would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# These machines are shared: how long one example takes says nothing.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(autouse=True, scope="session")
def _nothing_is_left_in_the_project() -> Iterator[None]:
    """A home that a test forgot to name is the current directory: keys and a ledger would come to lie there."""
    yield
    made = ("keys", "ledger.db", "models", "datasets", "oneseek.db", "locks", "logs")
    left = [name for name in made if (PROJECT / name).exists()]
    assert left == [], f"a test wrote {left} into {PROJECT}"


@pytest.fixture(autouse=True)
def _no_network() -> None:
    disable_socket(allow_unix_socket=True)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("BASE_MODELS", "MODELS_DIR", "ONESEEK_HOME", "LEDGER_PRIVATE_KEY_PATH", "LEDGER_URL", "LEDGER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("ONESEEK_SERVER", "ONESEEK_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.getbasetemp() / "huggingface"))


@pytest.fixture(autouse=True)
def models_are_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What models make of rows; a module whose tests are about that asks anew by a fixture of the same name."""
    from oneseek.preflight.looking import ANEW
    from support import asked_once

    monkeypatch.setattr(ANEW, "judged", asked_once.judged)


@pytest.fixture
def town(tmp_path: Path) -> Town:
    """A home with two base models, alfa-1b and beta-1b, and a chat dataset of twenty rows."""
    from support.runs import Town

    town = Town(tmp_path / "home")
    town.add_model("alfa-1b")
    town.add_model("beta-1b")
    rows = [
        {"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": f"Answer {n}."}]}
        for n in range(20)
    ]
    town.dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return town
