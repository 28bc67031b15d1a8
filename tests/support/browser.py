"""A real server, and a real Chromium that looks at it: what its pages say, ask for and violate."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Route, sync_playwright

from oneseek.engine.interface import EngineName
from oneseek.files.layout import Home
from oneseek.runs.process import written
from oneseek.state.access import Access
from oneseek.state.database import Database

PASSPHRASE = "correct horse battery staple"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LOOKS = ("light", "dark", "phone")
TESTS = Path(__file__).parent.parent
PATIENCE = 120_000
"""Milliseconds that something may take to appear on a page: a process that trains loads torch first, beside whatever
else is tested."""
MOMENT = 400
"""Milliseconds without a change after which a page is at rest: longer than any pause between two of its drawings."""

# Resolves when nothing on a page has changed for a moment.
_UNCHANGED = """([moment, patience]) => new Promise((resolve, reject) => {
  let timer = 0;
  const watching = new MutationObserver(later);
  const late = setTimeout(() => over(() => reject(new Error("this page never comes to rest"))), patience);
  watching.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
  later();
  function later() {
    clearTimeout(timer);
    timer = setTimeout(() => over(resolve), moment);
  }
  function over(told) {
    watching.disconnect();
    clearTimeout(late);
    told();
  }
})"""


@dataclass
class Site:
    """`oneseek serve` as a process of its own, always at the same port. engine: what its runs are trained by. session:
    the cookies of an administrator's browser, once somebody has signed in."""

    home: Path
    port: int
    environment: Mapping[str, str]
    engine: EngineName = "torch"
    session: list[Any] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        """What the server said on its terminal."""
        return (self.home / "served.log").read_text()

    def start(self) -> None:
        program = "oneseek" if self.engine == "torch" else "support.scripted"
        with (self.home / "served.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", program, "serve", "--home", str(self.home), "--port", str(self.port)],
                stdout=log,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": str(TESTS), **self.environment},
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, "the server does not begin"
            time.sleep(0.1)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(60)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def site(
    home: Path, environment: Mapping[str, str] = {}, *, engine: EngineName = "torch", set_up: bool = True
) -> Iterator[Site]:
    """Serve a home, with an administrator unless it is to be `set_up` by hand. In the end nothing is trained there."""
    if set_up:
        with closing(Database.open(Home(home, home / "models").database)) as database:
            access = Access(database)
            if not access.set_up:
                access.administer(access.new_link(), PASSPHRASE, "tests")
    served = Site(home, _free_port(), environment, engine)
    served.start()
    try:
        yield served
    finally:
        served.end()
        for path in home.glob("models/**/work/process.json"):
            if (process := written(path)) and (living := process.living()):
                living.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Seen:
    """What the pages of a context said and asked for. `said`: on the console, with errors and violations of the
    policy; `asked`: every request's method and address; `elsewhere`: those that left the server; `awaited`: those that
    were not answered yet."""

    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    awaited: set[Request] = field(default_factory=set)

    def watch(self, context: BrowserContext, address: str) -> None:
        def heard(message: ConsoleMessage) -> None:
            where = str(message.location.get("url"))
            if not where.endswith("/favicon.ico"):  # Chromium asks for one itself where an answer is no page
                self.said.append(f"{message.type}: {message.text} ({where})")

        def requested(request: Request) -> None:
            self.awaited.add(request)
            self.asked.append(f"{request.method} {request.url.removeprefix(address)}")
            if not request.url.startswith((address, address.replace("http", "ws"))):
                self.elsewhere.append(request.url)

        def answered(request: Request) -> None:
            self.awaited.discard(request)

        context.on("console", heard)
        context.on("weberror", lambda error: self.said.append(f"error: {error.error}"))
        context.on("request", requested)
        context.on("requestfinished", answered)
        context.on("requestfailed", answered)

    def rest(self, page: Page) -> None:
        """Wait until a page has filled: all that was asked for is answered, and nothing changes any more."""
        page.wait_for_load_state()
        asked = -1
        while asked != len(self.asked) or any(request.frame.page == page for request in self.awaited):
            asked = len(self.asked)
            page.evaluate(_UNCHANGED, [MOMENT, PATIENCE])

    def expect(self, pattern: str) -> None:
        """Take out what had to be said: Chromium itself tells of every answer that is no success."""
        self.said[:] = [said for said in self.said if not re.search(pattern, said)]


@contextmanager
def visit(
    browser: Browser, site: Site, *, seen: Seen | None = None, signed_in: bool = True, **options: Any
) -> Iterator[Page]:
    """A page in a fresh profile. options: those of a Playwright context, as `color_scheme`, `locale`, `viewport`."""
    context = browser.new_context(
        base_url=site.address, **{"viewport": {"width": 1440, "height": 900}, "locale": "en-GB"} | options
    )
    context.set_default_timeout(PATIENCE)
    if seen is not None:
        seen.watch(context, site.address)
    if signed_in:
        sign_in(context, site)
    try:
        yield context.new_page()
    finally:
        context.close()


def seen_as(page: Page, look: str) -> Page:
    """The same page in another look: light, dark, or on a phone; nothing moves."""
    page.emulate_media(color_scheme="dark" if look == "dark" else "light", reduced_motion="reduce")
    page.set_viewport_size({"width": 390, "height": 844} if look == "phone" else {"width": 1440, "height": 900})
    _drawn(page)
    return page


def too_wide(page: Page, width: int) -> int:
    """By how many pixels a page is wider than a window of some width; 0 where it is not."""
    page.set_viewport_size({"width": width, "height": 900})
    _drawn(page)
    over: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return max(0, over)


def _drawn(page: Page) -> None:
    """Wait until a page has been drawn as it is now."""
    page.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")


def sign_in(context: BrowserContext, site: Site) -> None:
    """Make a context an administrator's browser: who signs in anew has the server hash a passphrase again."""
    if not site.session:
        answer = context.request.post("/api/login", data={"passphrase": PASSPHRASE}, headers={"Origin": site.address})
        assert answer.status == 204, answer.text()
        site.session = [*context.cookies()]
    context.add_cookies(site.session)


def held(page: Page, address: str) -> list[Route]:
    """What is asked for there waits until somebody answers it."""
    waiting: list[Route] = []
    page.route(re.compile(address), lambda route: waiting.append(route))
    return waiting


def told(page: Page, method: str, path: str, body: Any = None) -> Any:
    """What the API answers to who sees a page, which has to be a success; bytes are sent as they are."""
    headers = {"Origin": "/".join(page.url.split("/")[:3])}
    if body is not None:
        headers["Content-Type"] = "application/octet-stream" if isinstance(body, bytes) else "application/json"
    data = body if body is None or isinstance(body, bytes) else json.dumps(body)
    answer = page.request.fetch(path, method=method, headers=headers, data=data)
    assert answer.ok, answer.text()
    return answer.json() if answer.body() else None
