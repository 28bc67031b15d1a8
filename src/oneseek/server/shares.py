"""How much of the server one who asks may have at once: however much that is, others are answered meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from oneseek.server.errors import Refusal
from oneseek.state.access import Identity

AT_ONCE = 12
"""Requests of one token or session that are answered at once; the next wait for one of them to end. Each may keep a
thread, and of those there are 40. Who watches a run keeps none, and counts only until it does."""

MOST = 2000
"""Requests and open sockets of one token or session, those included that wait: half of what the server bears."""

_AGAIN = 30  # seconds


@dataclass(eq=False)
class _Share:
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    asked: int = 0


class Turn:
    """That somebody is answered. It ends once, when it is over or needs nothing more that others may need."""

    def __init__(self, share: _Share) -> None:
        self._share: _Share | None = share

    def end(self) -> None:
        if self._share:
            self._share.turns.release()
        self._share = None


class Shares:
    """Everybody's, for one event loop."""

    def __init__(self) -> None:
        self._shares: dict[tuple[str, str], _Share] = {}

    @asynccontextmanager
    async def turn(self, who: Identity) -> AsyncIterator[Turn]:
        """Wait until it is the turn of who asks.

        Raises:
            Refusal: 429 far too much is asked for at once.
        """
        share = self._shares.setdefault((who.kind, who.id), _Share())
        if share.asked >= MOST:
            raise Refusal(
                429,
                f"This {who.kind} has {MOST} requests and sockets open.",
                "End some of them, or ask again in a while.",
                {"Retry-After": str(_AGAIN)},
            )
        share.asked += 1
        try:
            await share.turns.acquire()
            turn = Turn(share)
            try:
                yield turn
            finally:
                turn.end()
        finally:
            share.asked -= 1
            if not share.asked:
                del self._shares[who.kind, who.id]
