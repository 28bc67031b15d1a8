"""The pages: which there are, and what is sent for each. They hold no data of anybody: their modules ask the API."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from fastapi import APIRouter, FastAPI, Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from oneseek import __version__
from oneseek.server.access import is_for_people
from oneseek.server.errors import Refusal, response
from oneseek.server.pages.assets import Asset, Assets, compressed
from oneseek.server.pages.form import figure, others, setting
from oneseek.server.pages.words import LANGUAGES, preferred, remembered, translator
from oneseek.server.places import Hide, as_it_is

PAGES: Mapping[str, str] = {
    "/train": "train",
    "/runs": "runs",
    "/runs/{run_id}": "run",
    "/models": "models",
    "/datasets": "datasets",
    "/playground": "playground",
    "/ledger": "ledger",
    "/access": "access",
    "/login": "login",
    "/setup": "setup",
}
"""The template of each page by its address."""


_MODULES = {"login": "door.js", "setup": "door.js", "missing": "ui.js"}
"""The module of a page where it is not called as the page."""

THEMES = ("light", "dark")
_VARIES = "Accept-Encoding, Accept-Language, Cookie"
FOR_EVER = "public, max-age=31536000, immutable"


def install(app: FastAPI, hide: Hide = as_it_is) -> None:
    """Every page, the files that they are made of, and what people see where there is nothing. Programs are answered
    there as everywhere, behind the application's other routes and errors."""
    router = APIRouter(include_in_schema=False)
    assets = {language: Assets(language=language) for language in LANGUAGES}
    templates = Environment(
        loader=PackageLoader("oneseek.server.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    @cache
    def rendered(name: str, language: str, theme: str) -> Asset:
        content = templates.get_template(f"{name}.html").render(
            _=translator(language),
            assets=f"/assets/{assets[language].version}",
            figure=figure,
            icon=_icon,
            language=language,
            languages=LANGUAGES,
            others=others,
            page=name,
            setting=setting,
            theme=theme,
            version=__version__,
            module=_MODULES.get(name, f"{name}.js"),
        )
        page = content.encode()
        return Asset(page, compressed(page), "text/html; charset=utf-8")

    def shown(request: Request, name: str, status: int = 200) -> Response:
        cookies = request.headers.get("Cookie", "")
        language = preferred(remembered("language", cookies), request.headers.get("Accept-Language", ""))
        theme = remembered("theme", cookies)
        return _sent(request, rendered(name, language, theme if theme in THEMES else ""), {"Vary": _VARIES}, status)

    def page(request: Request) -> Response:
        return shown(request, PAGES[request.scope["route"].path])

    def missing(request: Request, error: Exception) -> Response:
        if is_for_people(request.method, request.url.path, request.headers.get("Accept", "")):
            return shown(request, "missing", 404)
        return response(error, hide)

    for address in PAGES:
        router.add_api_route(address, page, methods=["GET"])

    @router.get("/")
    def first() -> Response:
        return Response(status_code=303, headers={"Location": "/train"})

    @router.get("/assets/{version}/{name}")
    def asset(request: Request, version: str, name: str) -> Response:
        found = next(filter(None, (each.find(version, name) for each in assets.values())), None)
        if found is None:
            raise Refusal(404, "There is no such file.", "Load the page again: it names the files that there are.")
        return _sent(request, found, {"Cache-Control": FOR_EVER, "Vary": "Accept-Encoding"})

    app.include_router(router)
    app.add_exception_handler(404, missing)


def _sent(request: Request, asset: Asset, headers: dict[str, str], status: int = 200) -> Response:
    """Nothing that is sent so holds a secret, so its compressed length tells nothing."""
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        return Response(asset.compressed, status, headers | {"Content-Encoding": "gzip"}, asset.media_type)
    return Response(asset.content, status, headers, asset.media_type)


def _icon(name: str, tone: str = "") -> Markup:
    """An icon of icons.svg, for the eye only."""
    drawn = Markup('<svg class="{}" aria-hidden="true"><use href="#i-{}"/></svg>')
    return drawn.format(f"i {tone}".strip(), name)
