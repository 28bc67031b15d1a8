"""What is sent for a page: to whom, how, and what may not stand in it."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneseek.server.access import PAGES as PAGES_OF_PEOPLE
from oneseek.server.pages.assets import DIRECTORY as ASSETS
from oneseek.server.pages.assets import Assets
from oneseek.server.pages.routes import FOR_EVER, PAGES
from support.runs import Town
from support.server import Served, served

TEMPLATES = sorted((ASSETS.parent / "templates").iterdir())
MODULES = sorted(ASSETS.glob("*.js"))
STYLES = sorted(ASSETS.glob("*.css"))
_ASKED = re.compile(r'(?:src|href)="(/assets/[^"]+)"')
_IMPORTED = re.compile(
    r"""^(?:import\b|export\b.*\bfrom\b|\} from\b)[^"\n]*"([^"]+)";$|\bimport\("([^"]+)"\)""", re.MULTILINE
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(Town(tmp_path_factory.mktemp("pages") / "home")) as whole:
        yield whole


def page(server: Served, path: str, **headers: str) -> str:
    address = path.replace("{run_id}", "run-20251122-143025")
    answer = server.client.get(address, headers={**server.token("read"), **headers})
    assert answer.status_code == 200, address
    return answer.text


def test_the_guard_knows_every_page_and_every_page_that_it_knows_is_there() -> None:
    assert {path for path in PAGES if "{" not in path} | {"/"} == PAGES_OF_PEOPLE


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_html_that_nobody_keeps_and_everything_that_it_asks_for_is_there(server: Served, path: str) -> None:
    text = page(server, path)

    asked = _ASKED.findall(text)
    assert len(asked) >= 3  # icon, style, module
    for each in asked:
        answer = server.client.get(each)  # for everybody: they are the same for all
        assert answer.status_code == 200, each
        assert answer.headers["Cache-Control"] == FOR_EVER
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Vary"] == "Accept-Encoding"  # nothing else makes it another


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("language", ["en", "sv"])
def test_a_page_says_its_language_and_holds_nothing_that_the_policy_forbids(
    server: Served, path: str, language: str
) -> None:
    text = page(server, path, Cookie=f"language={language}")

    assert f'<html lang="{language}"' in text
    assert re.findall(r"<script(?![^>]*src=)", text) == []
    assert re.findall(r"""\s(?:style|on[a-z]+)=["']""", text) == []
    assert re.findall(r"<style|javascript:|https?://(?!www\.w3\.org)", text) == []


def test_the_theme_that_was_chosen_is_in_the_page_before_anything_is_drawn(server: Served) -> None:
    assert 'data-theme="dark"' in page(server, "/runs", Cookie="theme=dark")
    assert "data-theme=" not in page(server, "/runs", Cookie='theme="><script>').partition("<body")[0]


def test_what_was_never_there_or_is_not_any_more_is_not_sent(server: Served) -> None:
    version = Assets().version

    for path in (f"/assets/{version}/nothing.js", "/assets/0123456789ab/ui.js", f"/assets/{version}/..%2froutes.py"):
        assert server.client.get(path).status_code == 404, path


def test_pages_and_their_files_are_compressed_for_who_takes_that(server: Served) -> None:
    text = page(server, "/train")
    style = next(each for each in _ASKED.findall(text) if each.endswith(".css"))

    plain = server.client.get(style, headers={"Accept-Encoding": "identity"})
    packed = server.client.get(style, headers={"Accept-Encoding": "gzip"})

    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) < int(plain.headers["Content-Length"]) / 3
    assert packed.content == plain.content
    assert "Accept-Encoding" in packed.headers["Vary"]


def test_the_same_files_have_the_same_version_and_others_another(tmp_path: Path) -> None:
    for name in ("oneseek.css", "a.js"):
        (tmp_path / name).write_text(name)
    first, again = Assets(tmp_path), Assets(tmp_path)
    (tmp_path / "a.js").write_text("b")

    assert first.version == again.version != Assets(tmp_path).version
    found = first.find(first.version, "a.js")
    assert found is not None
    assert gzip.decompress(found.compressed) == found.content == b"a.js"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_imports_only_modules_that_are_there(path: Path) -> None:
    imported = ["".join(found) for found in _IMPORTED.findall(path.read_text("utf-8"))]

    assert [each for each in imported if not (each.startswith("./") and (ASSETS / each).is_file())] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_makes_no_markup_and_no_code_of_texts(path: Path) -> None:
    """What a name or a dataset says stays text, whatever it is."""
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|setAttribute\(.style"
    )

    assert re.findall(forbidden, path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_keeps_no_connection_that_other_pages_need(path: Path) -> None:
    """A browser opens six to a server, for all its pages: with two streams each, the fourth page would never come."""
    assert re.findall(r"new EventSource", path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "path", [path for path in TEMPLATES if "<form" in path.read_text()], ids=lambda path: path.name
)
def test_a_form_sends_nothing_before_its_module_does(path: Path) -> None:
    """What is written into it would stand in the address, passphrases too."""
    assert re.findall(r"<form(?![^>]*method=\"dialog\")[^>]*>", path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", [*MODULES, *STYLES, *TEMPLATES], ids=lambda path: path.name)
def test_nothing_is_fetched_from_elsewhere(path: Path) -> None:
    addresses = re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]{2,}[^\s\"')]*", path.read_text("utf-8"))

    assert [each for each in addresses if "www.w3.org" not in each] == []
