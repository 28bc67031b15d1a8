"""The Train form has what the schema has."""

from __future__ import annotations

import re

from oneseek.config.schema import MODEL_OVERRIDABLE
from oneseek.server.pages.assets import DIRECTORY as ASSETS

OVERRIDES = ASSETS.parent / "templates" / "train_overrides.html"


def test_a_model_can_differ_on_the_form_in_just_what_it_may_differ_in() -> None:
    offered = re.findall(r'"((?:lora|training)\.[a-z_]+)"', OVERRIDES.read_text("utf-8"))

    assert sorted(offered) == sorted(
        f"{section}.{name}" for section, names in MODEL_OVERRIDABLE.items() for name in names
    )
