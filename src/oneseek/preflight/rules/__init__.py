"""The rules. Each judges and never repairs; importing this package registers all of them."""

from oneseek.preflight.rules import data, lora, models, numbers, output, samples, selection, tokens
from oneseek.preflight.rules.numbers import settings_findings

__all__ = [
    "data",
    "lora",
    "models",
    "numbers",
    "output",
    "samples",
    "selection",
    "settings_findings",
    "tokens",
]
