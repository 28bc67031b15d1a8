"""What the tests in a browser share: one Chromium, a home with small real base models, a server over it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from support.base_models import write_model
from support.browser import CHROMIUM, PATIENCE, Seen, Site, chromium, site, visit
from support.hub import StandIn
from support.ledger_service import allow_loopback
from support.tiny_models import chat_rows, preference_rows, write_rows

expect.set_options(timeout=PATIENCE)

AXE = Path(__file__).parents[2] / ".venv" / "npm" / "node_modules" / "axe-core" / "axe.min.js"

ON_THE_HUB = "north/gamma-1b-instruct"
GATED = "north/gated-1b"

Open = Callable[..., Page]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip("there is no chromium here: make browser installs it")
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home: three base models of which one has no chat template, one that is pickled only; datasets as files."""
    home = tmp_path_factory.mktemp("furnished") / "home"
    for key, name, family in (("alfa-llama", "Alfa-Llama", "llama"), ("beta-mistral", "Beta-Mistral", "mistral")):
        write_model(home / "models" / key, family=family, vocab=300, context=256, display_name=name)  # type: ignore[arg-type]
    write_model(home / "models" / "gpt2", family="gpt2", vocab=300, context=256, chat=False, display_name="GPT-2")
    pickled = home / "models" / "old-pickle"
    pickled.mkdir()
    shutil.copy(home / "models" / "gpt2" / "config.json", pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x02N.")
    files = home / "files"
    files.mkdir()
    write_rows(files / "chats.jsonl", chat_rows(60))
    write_rows(files / "small.jsonl", chat_rows(5))
    write_rows(files / "preferences.jsonl", preference_rows(20))
    faulty: list[Any] = [*chat_rows(30)]
    faulty[7] = {"messages": [{"role": "user", "content": "Hej?"}, {"role": "assistant", "content": ""}]}
    faulty[11] = {"messages": [{"role": "bot", "content": "Hej"}]}
    (files / "faulty.jsonl").write_text("".join(json.dumps(row) + "\n" for row in faulty))
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
    """A server over a home of the module's own."""
    home = tmp_path_factory.mktemp("served") / "home"
    shutil.copytree(furnished, home)
    with site(home, {"HF_ENDPOINT": hub.address, "HF_HOME": str(home / "huggingface")}) as opened:
        yield opened


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
    """Open a page: `visited("/train", color_scheme="dark")`. In the end nothing may have been said on the console, no
    policy violated, and nothing asked for elsewhere."""
    with ExitStack() as pages:

        def opened(path: str, **options: Any) -> Page:
            page = pages.enter_context(visit(browser, served, seen=seen, **options))
            page.goto(path)
            return page

        yield opened
    assert seen.said == []
    assert seen.elsewhere == []


@pytest.fixture(scope="session")
def axe() -> Callable[[Page], list[str]]:
    """What axe-core finds on a page as it stands: rule, and the elements."""
    if not AXE.exists():
        pytest.skip("axe-core is not here: make browser installs it")
    script = AXE.read_text(encoding="utf-8")

    def violations(page: Page) -> list[str]:
        page.evaluate(script)
        found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
        return [f"{each['id']}: {[' '.join(map(str, node['target'])) for node in each['nodes']]}" for each in found]

    return violations
