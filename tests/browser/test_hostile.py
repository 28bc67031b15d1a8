"""What others write, keep or serve beside the page: it stays text, stops nothing, and gets hold of nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from browser.conftest import Open
from support.base_models import write_model
from support.browser import PASSPHRASE, Seen, Site, site, told, visit
from support.tiny_models import chat_rows

MARKUP = "<img src=x onerror=pwned=1></script><script>pwned=1</script>"
NAME = "<img src=x onerror=pwned=1>"
TURNED = "\u202eafla\u202c"
RUN = "run-20261121-100001"
STRANGE = "run-20261121-100002"


@pytest.fixture(scope="module")
def served(furnished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server whose models, datasets, runs, tokens and sessions are called what no one should be called."""
    home = tmp_path_factory.mktemp("hostile") / "home"
    shutil.copytree(furnished, home)
    write_model(home / "models" / "constructor", vocab=300, context=256, display_name=MARKUP)
    with site(home, {"HF_HUB_OFFLINE": "1"}) as opened:
        yield opened


@pytest.fixture(scope="module")
def sent(browser: Browser, served: Site) -> None:
    """All of it has been sent."""
    with visit(browser, served) as page:
        page.goto("/healthz")
        rows: list[Any] = [*chat_rows(8), {"messages": [{"role": NAME, "content": MARKUP}]}]
        rows[0]["messages"][0]["content"] = MARKUP
        told(page, "POST", f"/api/datasets?name={NAME}.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode())
        told(page, "POST", "/api/tokens", {"name": MARKUP, "scope": "read"})
        losses = {NAME: 1.0, TURNED: 2.0, "constructor": 3.0}
        for epoch in (1, 2):
            told(page, "POST", f"/api/training/{RUN}/metrics", {"epoch": epoch, "totalEpochs": 3, "valLosses": losses})
        told(page, "POST", f"/api/training/{RUN}/metrics", {"epoch": 2, "failed": MARKUP})
        alike = {"a": 1.0, "b": 1.0000000000000002}
        huge = {"a": 1e300, "b": 1e-300}
        report = {"epoch": 1, "totalEpochs": 10**6, "valLosses": {"a": 1e308, "b": -1e308}, "bitsPerByte": alike}
        told(page, "POST", f"/api/training/{STRANGE}/metrics", {**report, "weights": huge, "lrMultipliers": huge})
        signed_in_anew(page, served, agent=MARKUP)


def signed_in_anew(page: Page, served: Site, agent: str = "tests") -> None:
    """With a session that no other test has, which may be ended."""
    headers = {"Origin": served.address, "User-Agent": agent}
    assert page.request.post("/api/login", data={"passphrase": PASSPHRASE}, headers=headers).ok


def keep(page: Page, storage: str, name: str, held: object) -> None:
    """Let a page of the server find something that somebody else kept there."""
    page.goto("/healthz")
    text = held if isinstance(held, str) else json.dumps(held)
    page.evaluate("([storage, name, text]) => window[storage].setItem(name, text)", [storage, name, text])


def test_what_is_called_like_markup_stays_text(visited: Open, seen: Seen, sent: None) -> None:
    page = visited("/runs")
    draft = {"model.base_models": ["constructor", MARKUP], "data.dataset": f"{NAME}.jsonl", NAME: MARKUP}
    keep(page, "localStorage", "oneseek.draft", draft | {"per_model.constructor.lora.r": NAME, "data.strategy": NAME})
    for path, shown in {
        "/runs": NAME,
        f"/runs/{RUN}": MARKUP,
        f"/runs?compare={RUN},{STRANGE},{NAME}&q=&status={NAME}": NAME,
        "/models": MARKUP,
        f"/datasets#{NAME}.jsonl": MARKUP,
        "/access": MARKUP,
        "/train": MARKUP,
    }.items():
        page.goto(path)
        expect(page.locator("body")).to_contain_text(shown)
        assert page.locator("img, script:not([src]), iframe, object, embed").count() == 0, path
        assert page.evaluate("typeof pwned") == "undefined", path
    seen.rest(page)
    seen.expect("404 .*/api/models/")


def test_a_run_of_strange_names_and_numbers_is_told_as_it_is(visited: Open, sent: None) -> None:
    page = visited(f"/runs/{RUN}")
    board = page.locator("#board")
    expect(board.locator("tbody tr")).to_have_count(3)
    expect(board.locator("tbody tr.out")).to_have_count(0)  # every object has something by the name of "constructor"
    expect(page.locator("#log")).to_contain_text(f"{NAME} leads")
    assert (
        board.locator(".c-who b", has_text="afla").evaluate("name => getComputedStyle(name).unicodeBidi") == "isolate"
    )

    page.goto(f"/runs/{STRANGE}")
    expect(board.locator("tbody tr")).to_have_count(2)
    expect(page.locator("#chart-validation .plot .pt")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize(
    "draft",
    [
        {
            "training.sample_prompts": 5,
            "data.dataset": [*range(9)],
            "data.strategy": "constructor",
            "training.method": {"a": 1},
            "model.base_models": {"a": 1},
            "training": 5,
        },
        '{"__proto__": ["x"], "__proto__.x": 1, "constructor.prototype.x": 1, "": 1, "a..b": [[[]]]}',
    ],
    ids=["values", "names"],
)
def test_whatever_draft_is_kept_the_form_is_judged_and_can_be_filled(visited: Open, seen: Seen, draft: object) -> None:
    page = visited("/healthz")
    keep(page, "localStorage", "oneseek.draft", draft)

    page.goto("/train")
    expect(page.locator("#verdict")).to_contain_text("error")
    page.locator("#training-num-epochs").fill("-3")

    expect(page.locator('[data-field="training.num_epochs"] .said')).not_to_be_empty()
    assert page.evaluate("Object.prototype.x") is None
    seen.expect("404 .*/api/datasets/")


def test_a_file_that_no_settings_can_be_in_is_not_loaded(visited: Open) -> None:
    page = visited("/train")
    expect(page.locator("#verdict")).to_contain_text("2 things to choose")
    for held in (
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        json.dumps({"model": {"base_models": [*map(str, range(5000))]}}),
    ):
        file: Any = {"name": "x.json", "mimeType": "application/json", "buffer": held.encode()}
        page.set_input_files("#config-file", file)
        expect(page.get_by_role("alertdialog")).to_contain_text("too large")
        page.keyboard.press("Escape")


def test_addresses_and_histories_of_others_break_no_page(visited: Open, sent: None) -> None:
    page = visited("/login?next=//elsewhere.example/")
    expect(page).to_have_url(re.compile("/train$"))
    for wanted in (r"/\elsewhere.example", "/%09/elsewhere.example", "javascript:pwned=1"):
        page.goto(f"/login?next={wanted}")
        expect(page).to_have_url(re.compile("/train$"))

    page.goto("/datasets#%")
    expect(page.locator("#stored tbody tr")).to_have_count(1)
    keep(page, "sessionStorage", "oneseek.playground", [{"asked": {"prompts": [5]}}])
    page.goto("/playground?run=%22%5D")
    expect(page.locator("#none")).to_contain_text("No adapter to ask yet")


def test_an_address_of_no_run_is_said_to_be_one(visited: Open, seen: Seen) -> None:
    page = visited("/runs/%ff")

    expect(page.locator("#trouble")).to_contain_text("no run")
    seen.expect("404")


@contextmanager
def another_port() -> Iterator[str]:
    """The address of a page on this machine that belongs to somebody else."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Elsewhere</title>")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


_TRIES = """async (there) => {
  const failed = () => "refused";
  const asked = (path, options) =>
    fetch(there + path, {credentials: "include", ...options}).then((answer) => answer.type, failed);
  const element = (name, attributes) => new Promise((done) => {
    const made = Object.assign(document.createElement(name), attributes);
    made.onload = () => done(name === "iframe" && !made.contentDocument ? "refused" : "loaded");
    made.onerror = () => done("refused");
    document.body.append(made);
  });
  const socket = new WebSocket(there.replace("http", "ws") + "/ws/training?runId=RUN");
  const connected = new Promise((done) => {
    socket.onopen = () => done("opened");
    socket.onclose = () => done("refused");
  });
  const opened = open(there + "/train");
  const letGo = async () => {
    for (let tries = 0; tries < 400 && !opened.closed; tries += 1) await new Promise((done) => setTimeout(done, 50));
    return opened.closed ? "refused" : "held";
  };
  return {
    post: await asked("/api/tokens", {method: "POST", mode: "no-cors", body: '{"name": "x", "scope": "admin"}'}),
    read: await asked("/api/runs", {}),
    guessed: await asked("/api/runs", {mode: "no-cors"}),
    script: await element("script", {src: there + "/api/runs"}),
    image: await element("img", {src: there + "/assets/VERSION/icon.svg"}),
    frame: await element("iframe", {src: there + "/train"}),
    socket: await connected,
    window: await letGo(),
  };
}"""


def test_a_page_at_another_port_may_ask_read_embed_and_hold_nothing(browser: Browser, served: Site, sent: None) -> None:
    with another_port() as elsewhere, visit(browser, served) as page:
        page.goto("/train")
        version = re.findall("/assets/([0-9a-f]+)/", page.content())[0]
        page.goto(elsewhere)

        tries: Mapping[str, str] = page.evaluate(_TRIES.replace("RUN", RUN).replace("VERSION", version), served.address)

    assert {name for name, came in tries.items() if came != "refused"} == set()


def test_a_cookie_that_another_port_has_set_leads_nobody_round_in_circles(browser: Browser, served: Site) -> None:
    seen = Seen()
    with visit(browser, served, seen=seen) as page:
        page.context.add_cookies([{"name": "oneseek", "value": "x", "domain": "127.0.0.1", "path": "/train"}])

        page.goto("/train")

        expect(page.get_by_role("alert")).to_contain_text("Delete the cookies of 127.0.0.1")
        assert seen.asked.count("GET /train") == 1


def test_a_passphrase_gets_into_no_address_where_the_modules_do_not_come(browser: Browser, served: Site) -> None:
    with visit(browser, served, signed_in=False) as page:
        page.route("**/*.js", lambda route: route.abort())
        for path in ("/login", "/setup"):
            page.goto(path)
            page.evaluate("document.querySelectorAll('[hidden]').forEach((each) => (each.hidden = false))")

            page.locator("#passphrase").fill(PASSPHRASE)
            page.keyboard.press("Enter")
            page.wait_for_timeout(200)

            assert page.url == f"{served.address}{path}"


def test_who_has_signed_out_is_shown_nothing_by_going_back_and_no_secret_is_kept(
    browser: Browser, served: Site, sent: None
) -> None:
    with visit(browser, served) as page:
        signed_in_anew(page, served)
        page.goto("/access")
        page.get_by_role("button", name="New token").click()
        page.locator("#token-name").fill("nightly")
        page.get_by_role("button", name="Make token").click()
        secret = page.locator("#made code").first.inner_text()
        page.goto("/runs")
        page.go_back()
        expect(page.locator("#tokens-list")).to_contain_text("nightly")
        kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, history.state])")
        assert secret not in page.content() + kept

        page.get_by_role("button", name="Account").click()
        page.locator("#account [data-sign-out]").click()
        expect(page).to_have_url(re.compile("/login"))
        page.go_back()

        expect(page).to_have_url(re.compile(r"/login\?next="))
        expect(page.locator("body")).not_to_contain_text("nightly")
