"""Who may ask for what: the one table. What does not stand in it is closed to everybody who is not known, and needs
`read` to be read and `run` for everything else."""

from __future__ import annotations

from oneseek.state.access import Scope

SOCKET = "WEBSOCKET"
"""The method of a request for a socket, which has none of its own."""

SAFE = frozenset({"GET", "HEAD"})
"""Methods that change nothing, and that browsers send without saying from which page."""

PUBLIC = frozenset(
    {
        ("GET", "/healthz"),
        ("GET", "/api/session"),
        ("POST", "/api/setup"),
        ("POST", "/api/login"),
        ("GET", "/login"),
        ("GET", "/setup"),
    }
)
"""Methods and paths, letter by letter, for which nobody has to be known."""

ASSETS = "/assets/"
"""What the pages are made of, the same for everybody: nobody has to be known to read what begins so."""

PAGES = frozenset(
    {"/", "/train", "/runs", "/models", "/datasets", "/playground", "/ledger", "/access", "/login", "/setup"}
)
"""Where people open a page, and below /runs/ that of each run."""

PROGRAMS = ("/api", "/ws", ASSETS)
"""What begins so is no page and will be none."""

EVERYBODYS = frozenset({("POST", "/api/logout")})
"""What changes something and yet is for everybody who is known."""

ADMINISTRATION = ("/api/passphrase", "/api/sessions", "/api/tokens")
"""Every path that begins so is the administrator's, whatever follows: routes take more than one spelling of a path."""

_SCOPES: tuple[Scope, ...] = ("read", "run", "admin")


def scope_of(method: str, path: str) -> Scope | None:
    """The scope that a request needs; None where it needs none.

    path: decoded, exactly as the routes are compared with.
    """
    if (method, path) in PUBLIC or (method in SAFE and path.startswith(ASSETS)):
        return None
    if path.startswith(ADMINISTRATION):
        return "admin"
    return "read" if method in SAFE or method == SOCKET or (method, path) in EVERYBODYS else "run"


def is_page(method: str, path: str) -> bool:
    """Whether a request is for a page: people who are not known are sent from there to log in."""
    return method == "GET" and (path in PAGES or path.startswith("/runs/"))


def is_for_people(method: str, path: str, accepted: str) -> bool:
    """Whether somebody has typed an address or followed a link, there being a page or not. Programs ask for what the
    API has, and for no HTML.

    accepted: of the header Accept.
    """
    return is_page(method, path) or (method == "GET" and "text/html" in accepted and not path.startswith(PROGRAMS))


def suffices(scope: Scope, needed: Scope) -> bool:
    """Whether a scope allows what needs another: read < run < admin."""
    return _SCOPES.index(scope) >= _SCOPES.index(needed)
