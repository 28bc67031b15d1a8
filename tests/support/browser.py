"""A real server, and a real Chromium that looks at it: what its pages say, ask for and violate."""

from __future__ import annotations

import os
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

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from oneseek.files.layout import Home
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
PATIENCE = 20_000
"""Milliseconds that something may take to appear on a page; a process that trains loads torch first."""


@dataclass
class Site:
    """`oneseek serve` as a process of its own over a home with an administrator, always at the same port."""

    home: Path
    port: int
    environment: Mapping[str, str]
    process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        log = self.home / "served.log"
        with log.open("a") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "oneseek", "serve", "--home", str(self.home), "--port", str(self.port)],
                stdout=file,
                stderr=file,
                text=True,
                env={**os.environ, **self.environment},
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, log.read_text()
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
def site(home: Path, environment: Mapping[str, str] = {}) -> Iterator[Site]:
    """Serve a home; everything that was started in it is ended with it."""
    with closing(Database.open(Home(home, home / "models").database)) as database:
        access = Access(database)
        if not access.set_up:
            access.administer(access.new_link(), PASSPHRASE, "tests")
    served = Site(home, _free_port(), environment)
    served.start()
    try:
        yield served
    finally:
        served.end()


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
    policy; `asked`: every request's method and address; `elsewhere`: those that left the server."""

    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def watch(self, context: BrowserContext, address: str) -> None:
        def heard(message: ConsoleMessage) -> None:
            self.said.append(f"{message.type}: {message.text} ({message.location.get('url')})")

        def requested(request: Request) -> None:
            self.asked.append(f"{request.method} {request.url.removeprefix(address)}")
            if not request.url.startswith((address, address.replace("http", "ws"))):
                self.elsewhere.append(request.url)

        context.on("console", heard)
        context.on("weberror", lambda error: self.said.append(f"error: {error.error}"))
        context.on("request", requested)


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
    """The same page in another look: light, dark, or on a phone."""
    page.emulate_media(color_scheme="dark" if look == "dark" else "light")
    page.set_viewport_size({"width": 390, "height": 844} if look == "phone" else {"width": 1440, "height": 900})
    page.wait_for_timeout(400)  # what moves has moved
    return page


def too_wide(page: Page, width: int) -> int:
    """By how many pixels a page is wider than a window of some width; 0 where it is not."""
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(100)
    over: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return max(0, over)


def sign_in(context: BrowserContext, site: Site) -> None:
    answer = context.request.post("/api/login", data={"passphrase": PASSPHRASE}, headers={"Origin": site.address})
    assert answer.status == 204, answer.text()
