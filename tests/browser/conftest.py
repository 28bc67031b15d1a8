"""What the tests in a browser share: one Chromium, a home with small real base models, a server over it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from playwright.sync_api import Browser, Page, expect

from support import homes
from support.base_models import write_model
from support.browser import CHROMIUM, LOOKS, PATIENCE, Seen, Site, chromium, seen_as, site, told, visit
from support.hub import StandIn
from support.ledger_service import allow_loopback

expect.set_options(timeout=PATIENCE)

AXE = Path(__file__).parents[2] / ".venv" / "npm" / "node_modules" / "axe-core" / "axe.min.js"

LONGEST = (
    "test_journey.py",
    "test_run.py",
    "test_train.py",
    "test_faults.py",
    "test_models.py",
    "test_frame.py",
    "test_still.py",
    "test_hostile.py",
)

RUN = "/api/admin/training/start-dna-v2"
MODELS = ("alfa-llama", "beta-mistral")

ON_THE_HUB = "north/gamma-1b-instruct"
GATED = "north/gated-1b"

Open = Callable[..., Page]
Barriers = Callable[[Page], dict[str, list[str]]]


def pytest_itemcollected(item: pytest.Item) -> None:
    if Path(__file__).parent in item.path.parents:
        item.add_marker(pytest.mark.browser)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONGEST)))  # who share the files end at the same time


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip("there is no chromium here: make browser installs it")
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with base models and files, as `support.homes` furnishes it."""
    return _once(tmp_path_factory, "furnished", homes.furnish)


@pytest.fixture(scope="session")
def with_runs(furnished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A furnished home with the runs of `support.homes`."""

    def train(home: Path) -> None:
        shutil.copytree(furnished, home, dirs_exist_ok=True)
        homes.train(home)

    return _once(tmp_path_factory, "with_runs", train)


def _once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A home that is made once, for all processes that test."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    home, made = shared / name / "home", shared / name / "made"
    with FileLock(shared / f"{name}.lock"):
        if not made.exists():
            home.mkdir(parents=True)
            make(home)
            made.touch()
    return home


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A hub with one model that nobody has downloaded, and one that not everybody may."""
    allow_loopback()
    there = write_model(tmp_path_factory.mktemp("hub") / "model", vocab=300, context=256)
    stand_in = StandIn()
    stand_in.add(ON_THE_HUB, there)
    stand_in.add(GATED, there, opened_by="hf_nobody_has_it")
    yield stand_in
    stand_in.close()


@pytest.fixture(scope="module")
def served(furnished: Path, hub: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server over a furnished home of the module's own. A module may say it in its own way."""
    home = tmp_path_factory.mktemp("served") / "home"
    shutil.copytree(furnished, home)
    with site(home, {"HF_ENDPOINT": hub.address, "HF_HOME": str(home / "huggingface")}) as opened:
        yield opened


@pytest.fixture(scope="session")
def finished(with_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server over a home with runs, which all tests leave as they found it."""
    home = tmp_path_factory.mktemp("finished") / "home"
    shutil.copytree(with_runs, home)
    with site(home, {"HF_HUB_OFFLINE": "1"}) as opened:
        yield opened


@pytest.fixture(scope="session")
def runs(with_runs: Path) -> Mapping[str, str]:
    """The ids of the runs in `finished`, by what `support.homes` calls them."""
    return dict(json.loads((with_runs / homes.RUNS).read_text()))


@pytest.fixture(autouse=True)
def _loopback(_no_network: None) -> None:
    """Browser and server are other processes; what is asked from here goes to this machine."""
    allow_loopback()


@pytest.fixture
def seen() -> Seen:
    """What the pages of a test said and asked for. A test that expects something to be said takes it out."""
    return Seen()


@pytest.fixture
def visited(browser: Browser, served: Site, seen: Seen) -> Iterator[Open]:
    """Open a page: `visited("/train", color_scheme="dark")`; "about:blank" is one that asks the server for nothing yet.
    In the end nothing may have been said on the console, no policy violated, and nothing asked for elsewhere."""
    with ExitStack() as pages:

        def opened(path: str, **options: Any) -> Page:
            page = pages.enter_context(visit(browser, served, seen=seen, **options))
            page.goto(path)
            return page

        yield opened
    assert seen.said == []
    assert seen.elsewhere == []


@pytest.fixture
def begun(visited: Open, served: Site) -> Iterator[Callable[..., Page]]:
    """Start a run of both models that takes minutes, and open its page: `begun(baseModels=["gpt2"])`, in a page that is
    given or the one before. What still runs in the end is ended."""
    started: list[tuple[Page, str]] = []
    long = {"training": {"num_epochs": 1000}, "confidence_auto_stop": {"enabled": False}}
    asked = {"datasetId": "chats.jsonl", "baseModels": MODELS, "execution": {"executor": "inline"}, **long}

    def start(page: Page | None = None, **settings: Any) -> Page:
        page = page or (started[0][0] if started else visited("/runs"))
        told(page, "POST", "/api/datasets?name=chats.jsonl", (served.home / "files" / "chats.jsonl").read_bytes())
        run_id = told(page, "POST", RUN, asked | settings)["run_id"]
        started.append((page, run_id))
        page.goto(f"/runs/{run_id}")
        return page

    yield start
    for page, run_id in reversed(started):
        if told(page, "GET", f"/api/runs/{run_id}")["status"] in ("queued", "preparing", "training", "stopping"):
            told(page, "POST", f"/api/runs/{run_id}/stop", {"when": "kill"})


@pytest.fixture(scope="session")
def axe() -> Callable[[Page], list[str]]:
    """What axe-core finds on a page as it stands: rule, and the elements."""
    if not AXE.exists():
        pytest.skip("axe-core is not here: make browser installs it")
    script = AXE.read_text(encoding="utf-8")

    def violations(page: Page) -> list[str]:
        if page.evaluate("typeof axe") == "undefined":
            page.evaluate(script)
        found = page.evaluate("axe.run({resultTypes: ['violations']}).then(({ violations }) => violations)")
        return [f"{each['id']}: {[' '.join(map(str, node['target'])) for node in each['nodes']]}" for each in found]

    return violations


@pytest.fixture(scope="session")
def barriers(axe: Callable[[Page], list[str]]) -> Barriers:
    """What axe-core finds on a page as it stands, in each look: light, dark, on a phone."""
    return lambda page: {look: found for look in LOOKS if (found := axe(seen_as(page, look)))}
