"""What the page costs: `python bench/page.py [--seconds 20] [--save]`, in a real Chromium over a real server.

A cold Train page: its requests, and the bytes that came over the wire. The inline check: from a key press in a field
to the server's verdict drawn, for a setting that changes nothing else and for one that makes everything be looked at
again. A run that tells 40 events a second: the share of the time that the page's main thread is busy. --save writes
bench/results/page.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock
from goals import Goal
from playwright.sync_api import Browser, Page

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from oneseek.events import EpochStarted  # noqa: E402
from oneseek.files.layout import Results, RunDirectory  # noqa: E402
from oneseek.journal.file import Writer  # noqa: E402
from support.base_models import write_model  # noqa: E402
from support.browser import Site, chromium, site, visit  # noqa: E402
from support.histories import accepted, committed, finished, planned, progress  # noqa: E402
from support.tiny_models import chat_rows, write_rows  # noqa: E402

RESULTS = HERE / "results" / "page.json"
MODELS = ("alfa", "beta", "gamma", "delta")
RATE = 40
STEPS = 200
ASKED = {"data.dataset": "chats.jsonl", "model.base_models": MODELS[:3]}

# From the key press to the frame in which the verdict stands; the form's own module says when it has come.
TYPED = """async ([id, text]) => {
  const module = performance.getEntriesByType("resource").find((each) => each.name.endsWith("/form.js")).name;
  const { on } = await import(module);
  const field = document.getElementById(id);
  await new Promise((resolve) => setTimeout(resolve, 700));
  return await new Promise((resolve) => {
    let began = 0;
    on("verdict", () => requestAnimationFrame(() => resolve(performance.now() - began)));
    began = performance.now();
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  });
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = furnished(Path(scratch) / "home")
        with site(home, {"HF_HUB_OFFLINE": "1"}) as served, chromium() as browser:
            goals = [*cold(browser, served), *typing(browser, served), busy(browser, served, options.seconds)]
    for goal in goals:
        print(" | ".join(("", *goal.cells, "")).strip())
    if options.save:
        told = {"cores": os.cpu_count(), "goals": [asdict(goal) for goal in goals]}
        RESULTS.write_text(json.dumps(told, indent=1) + "\n")


def furnished(home: Path) -> Path:
    """A home with base models and a dataset."""
    for seed, key in enumerate(MODELS):
        write_model(home / "models" / key, vocab=300, context=512, seed=seed)
    write_rows(home / "chats.jsonl", chat_rows(240))
    return home


def cold(browser: Browser, served: Site) -> list[Goal]:
    """The Train page of somebody who was never here."""
    requests, sizes = [], []
    for _ in range(3):
        with visit(browser, served) as page:
            came: dict[str, float] = {}
            watched = page.context.new_cdp_session(page)
            watched.send("Network.enable")
            watched.on(
                "Network.loadingFinished",
                lambda told, came=came: came.update({told["requestId"]: told["encodedDataLength"]}),
            )
            page.goto("/train")
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(1000)
            requests.append(float(len(came)))
            sizes.append(sum(came.values()) / 1000)
    return [
        Goal(what="requests of a cold Train page", bound=10, side="at most", values=requests, unit=""),
        Goal(what="a cold Train page, compressed", bound=60, side="at most", values=sizes, unit="kB"),
    ]


def _note(came: dict[str, float], told: dict[str, Any]) -> None:
    came[told["requestId"]] = told["encodedDataLength"]


def typing(browser: Browser, served: Site) -> list[Goal]:
    """Key presses on a form that is filled in."""
    rows = (served.home / "chats.jsonl").read_bytes()
    with visit(browser, served) as page:
        sent = page.context.request.post(
            "/api/datasets?name=chats.jsonl",
            data=rows,
            headers={"Origin": served.address, "Content-Type": "text/plain"},
        )
        assert sent.ok, sent.text()
        page.goto("/train")
        page.evaluate("(asked) => localStorage.setItem('oneseek.draft', JSON.stringify(asked))", ASKED)
        page.reload()
        page.wait_for_timeout(3000)
        rates = [_typed(page, "training-learning-rate", f"{1 + step / 10:.1f}e-4") for step in range(20)]
        lengths = [_typed(page, "data-max-length", str(256 + step)) for step in range(20)]
    return [
        Goal(what="key press to verdict, learning rate", bound=150, side="at most", values=rates, unit="ms"),
        Goal(what="key press to verdict, max length", bound=150, side="at most", values=lengths, unit="ms"),
    ]


def _typed(page: Page, field: str, text: str) -> float:
    took: float = page.evaluate(TYPED, [field, text])
    return took


def busy(browser: Browser, served: Site, seconds: float) -> Goal:
    """The main thread of a page that watches a run of four models."""
    run = begun(served.home)
    count = round(RATE * (seconds + 10))
    writing = subprocess.Popen([sys.executable, __file__, "write", str(run.root), str(count)])
    try:
        with visit(browser, served) as page:
            page.goto(f"/runs/{run.run_id}")
            page.wait_for_timeout(4000)
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable")
            before, began = _metrics(session), time.monotonic()
            page.wait_for_timeout(1000 * seconds)
            share = (_metrics(session)["TaskDuration"] - before["TaskDuration"]) / (time.monotonic() - began)
    finally:
        writing.kill()
        writing.wait()
    return Goal(what=f"main thread at {RATE} events/s", bound=0.15, side="at most", values=[share], unit="%")


def _metrics(session: Any) -> Mapping[str, float]:
    told: Sequence[dict[str, Any]] = session.send("Performance.getMetrics")["metrics"]
    return {each["name"]: each["value"] for each in told}


def begun(home: Path) -> RunDirectory:
    """A run of four models that trains its third epoch."""
    run = Results(home / "models").run("run-20251122-143025")
    run.work.mkdir(parents=True)
    with Writer(run.journal) as writer:
        writer.append(accepted(*MODELS), durable=True)
        writer.append(planned(*MODELS), durable=True)
        for epoch in (1, 2):
            writer.append(EpochStarted(epoch=epoch, learning_rates={}), durable=False)
            losses = {key: 3.0 / epoch + place / 10 for place, key in enumerate(MODELS)}
            for key, loss in losses.items():
                writer.append(finished(key, epoch, loss), durable=False)
            writer.append(committed(epoch, losses), durable=True)
        writer.append(EpochStarted(epoch=3, learning_rates={}), durable=True)
    return run


def write(root: str, count: str) -> None:
    """Append a model's progress at a steady pace, as the process of a run does."""
    run = RunDirectory(Path(root))
    with FileLock(run.lock), Writer(run.journal) as writer:
        began = time.monotonic()
        for number in range(int(count)):
            time.sleep(max(0.0, began + number / RATE - time.monotonic()))
            step = number // len(MODELS)
            writer.append(progress(MODELS[number % len(MODELS)], 3, step, STEPS * 10), durable=False)


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write(*sys.argv[2:])
    else:
        main()
