"""Take the pictures in docs/pictures/: every page, over a home in which real, small models were really trained."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))

from oneseek.demo import make  # noqa: E402
from oneseek.files.layout import Home  # noqa: E402
from support.browser import Site, chromium, site, visit  # noqa: E402

PICTURES = DOCS / "pictures"
WIDE = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
MODELS = ["ekvik-llama-mini", "ekvik-qwen-mini", "ekvik-mistral-mini"]
PROMPTS = ["Hur bokar jag en tid i Ekhallen?", "Library hours on a Saturday?"]

# Chromium draws with the system's face; where Inter is installed the pictures are the same on every machine.
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>
<dir>/usr/share/fonts</dir><cachedir prefix="xdg">fontconfig</cachedir>
<match target="pattern"><test qual="any" name="family" compare="contains"><string>sans</string></test>
<edit name="family" mode="assign" binding="strong"><string>Inter</string></edit></match>
<match target="pattern"><test qual="any" name="family" compare="contains"><string>mono</string></test>
<edit name="family" mode="assign" binding="strong"><string>DejaVu Sans Mono</string></edit></match></fontconfig>"""


LOOKS: Mapping[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": WIDE},
    "dark": {"color_scheme": "dark", "viewport": WIDE},
    "phone": {"color_scheme": "light", "viewport": PHONE},
}


def main() -> None:
    """Make a home, train in it, and take every picture."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        home = Home(Path(temporary) / "home", Path(temporary) / "home" / "models")
        fonts = Path(temporary) / "fonts.conf"
        fonts.write_text(FONTS)
        os.environ["FONTCONFIG_FILE"] = str(fonts)
        make.make_base_models(home, lambda name: None)
        rows = make.write_dataset(home).read_bytes()
        with site(home.root, {"HF_HUB_OFFLINE": "1"}) as served, chromium() as browser:
            Taking(browser, served).all(rows)


@dataclass(frozen=True)
class Taking:
    """Pictures of a server's pages."""

    browser: Browser
    served: Site

    def all(self, rows: bytes) -> None:
        """Train three runs, and take every page while the last one goes on."""
        with visit(self.browser, self.served) as page:
            self._ask(page, "POST", "/api/datasets?name=town.jsonl", rows)
            first = self._train(page, {"num_epochs": 4, "sample_prompts": PROMPTS, "learning_rate": 5e-4}, {"r": 16})
            best = self._train(page, {**of("training"), "sample_prompts": PROMPTS}, of("lora"))
            live = self._train(page, {**of("training"), "num_epochs": 16}, of("lora"))
            self._until(page, live, epoch=5)
        self.take("run-live", f"/runs/{live}")
        self.take("run", f"/runs/{best}")
        self.take("runs", f"/runs?selected={first},{best}&compare={first},{best}")
        self.take("train", "/train", draft={"model.base_models": MODELS, "data.dataset": "town.jsonl"})
        for name in ("models", "datasets", "ledger", "access", "login"):
            self.take(name, f"/{name}", looks=("light",))
        self.take("playground", f"/playground?run={best}", looks=("light",))

    def take(
        self, name: str, path: str, *, draft: Mapping[str, object] | None = None, looks: Sequence[str] = tuple(LOOKS)
    ) -> None:
        """A page in some looks, whole."""
        for look in looks:
            options = LOOKS[look]
            with visit(self.browser, self.served, signed_in=path != "/login", **options) as page:
                page.goto(path)
                if draft:
                    page.evaluate("(draft) => localStorage.setItem('oneseek.draft', JSON.stringify(draft))", draft)
                    page.reload()
                page.wait_for_timeout(3000)
                # In a window as high as the page, what sticks to the window's foot covers nothing.
                width, height = page.evaluate("[innerWidth, document.documentElement.scrollHeight]")
                page.set_viewport_size({"width": width, "height": height})
                page.screenshot(path=PICTURES / f"{name}-{look}.png")
        sys.stdout.write(f"{name}\n")

    def _train(self, page: Page, training: Mapping[str, object], lora: Mapping[str, object]) -> str:
        asked = {
            "datasetId": "town.jsonl",
            "baseModels": MODELS,
            "training": {**training},
            "lora": {**lora},
            "live_leaderboard": {"refresh_interval": 0.2},
        }
        run_id: str = self._ask(page, "POST", "/api/admin/training/start-dna-v2", asked)["run_id"]
        return run_id

    def _until(self, page: Page, run_id: str, epoch: int) -> None:
        while self._ask(page, "GET", f"/api/runs/{run_id}")["current_epoch"] < epoch:
            page.wait_for_timeout(250)

    def _ask(self, page: Page, method: str, path: str, body: Any = None) -> Any:
        said = {"Origin": self.served.address}
        if isinstance(body, bytes):
            said["Content-Type"] = "application/octet-stream"
        answer = page.context.request.fetch(path, method=method, data=body, headers=said, timeout=120_000)
        if not answer.ok:
            raise RuntimeError(answer.text())
        return answer.json()


def of(section: str) -> dict[str, object]:
    """The demo's settings of a section."""
    named = make.SETTINGS.items()
    return {field.removeprefix(f"{section}."): value for field, value in named if field.startswith(f"{section}.")}


if __name__ == "__main__":
    main()
