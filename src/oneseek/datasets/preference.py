"""Where the prompt ends of a preference that has none of its own: what chosen and rejected begin with, both.

Where exactly it is cut makes no difference to DPO: what the two answers share counts the same in both and cancels out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import msgspec


def shared_messages(chosen: Sequence[dict[str, Any]], rejected: Sequence[dict[str, Any]]) -> int:
    """How many messages of two conversations, as they are used, make up their prompt; 0 where there is none.

    The prompt ends where the assistant begins to speak in both.
    """
    shared = 0
    # As JSON: in Python 1, 1.0 and true are equal, and an argument of a tool call may differ in just that.
    for number, pair in enumerate(zip(chosen, rejected, strict=False)):
        if all(message["role"] == "assistant" for message in pair):
            shared = number
        if len({msgspec.json.encode(message, order="sorted") for message in pair}) > 1:
            break
    return shared


def shared_text(chosen: str, rejected: str) -> int:
    """How many characters of two texts make up their prompt; 0 where there is none.

    The prompt ends with a word, and the blanks after it belong to the answers, as tokenizers have it; but a line break
    belongs to the prompt.
    """
    shortest = min(len(chosen.rstrip()), len(rejected.rstrip()))
    end = bisect_left(range(shortest), True, key=lambda at: chosen[: at + 1] != rejected[: at + 1])
    if end == shortest:  # one goes on from the other, whose last word is its answer then
        end = _before(chosen, end, lambda char: not _in_word(char))
    end = _before(chosen, end, _in_word)
    return _before(chosen, end, " \t".__contains__)


def _in_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _before(text: str, end: int, skip: Callable[[str], bool]) -> int:
    while end and skip(text[end - 1]):
        end -= 1
    return end
