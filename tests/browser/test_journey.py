"""A whole training in a browser: from a file to a download that anybody can check, while the server dies."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from playwright.sync_api import expect

from browser.conftest import Open
from browser.test_train import choose, drop, may_start, review
from support.browser import Seen, Site

LONG = 240_000  # milliseconds: two processes load torch first, beside whatever else is tested


@pytest.mark.parametrize("language", ["en", "sv"])
def test_two_models_from_upload_to_a_download_that_verifies(
    visited: Open, served: Site, seen: Seen, tmp_path: Path, language: str
) -> None:
    swedish = language == "sv"
    page = visited("/train", locale="sv-SE" if swedish else "en-GB")
    choose(page, "Alfa-Llama", "Beta-Mistral")
    drop(page, served, "chats.jsonl")
    page.locator("#training-num-epochs").fill("9")
    page.locator("#training-batch-size").fill("2")
    page.locator("#training-learning-rate").fill("1e-4" if not swedish else "0,0001")
    expect(page.locator("#form:not(.stale)")).to_be_visible()
    review(page)
    may_start(page, allowed=True)
    page.locator("#start").click()

    expect(page).to_have_url(re.compile(r"/runs/run-\d{8}-\d{6}"), timeout=LONG)
    run_id = page.url.rpartition("/")[2]
    expect(page.locator("#board tbody tr")).to_have_count(2, timeout=LONG)
    expect(page.locator("#board")).to_contain_text("Alfa-Llama")
    expect(page.locator("#connection")).to_have_text("Direkt" if swedish else "Live", timeout=LONG)
    expect(page.locator("#log")).to_contain_text(re.compile("Epok 1|Epoch 1"), timeout=LONG)

    served.end(signal.SIGKILL)  # the run is a process of its own: it goes on
    expect(page.locator("#connection")).not_to_have_text("Direkt" if swedish else "Live")
    expect(page.locator("#board")).to_contain_text("Alfa-Llama")
    served.start()
    if not swedish:
        page.reload()

    expect(page.locator("#badge")).to_have_text("Certifierad" if swedish else "Certified", timeout=LONG)
    expect(page.locator("#champion")).to_have_text(re.compile("Alfa-Llama|Beta-Mistral"))
    expect(page.locator("#checks li")).to_have_count(14)
    expect(page.locator("#verify-said")).to_contain_text("12")
    with page.expect_download() as told:
        page.locator("#result-actions a[download], #result-actions a", has_text=re.compile("Download|Ladda")).click()
    archive = tmp_path / "run.tar"
    told.value.save_as(archive)
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    key = page.context.request.get("/api/ledger/key").text()
    (tmp_path / "keys.txt").write_text(key)
    checked = subprocess.run(
        [sys.executable, "-m", "oneseek", "verify", str(tmp_path / run_id), "--key", str(tmp_path / "keys.txt")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    seen.expect("ERR_|WebSocket|status of 5")  # Chromium itself tells of every connection that breaks
