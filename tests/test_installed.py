"""What the installed transformers knows is read from its source as it would say itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from oneseek.registry import installed
from oneseek.registry.discover import describe
from support.base_models import write_model


def test_the_types_of_causal_language_models_are_those_that_transformers_lists() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert installed.causal_types() == frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.engine
@pytest.mark.parametrize("model_type", ["lfm3", "axk2", "deepseek_v4", "llama"])
def test_renamings_are_those_that_transformers_applies(model_type: str) -> None:
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    conversions = get_checkpoint_conversion_mapping(model_type) or []
    applied = [each for each in conversions if type(each) is WeightRenaming]

    assert [(pattern, replacement.replace("\\.", ".")) for pattern, replacement in installed.renamings(model_type)] == [
        (each.source_patterns[0], each.target_patterns[0].replace("\\.", ".")) for each in applied
    ]


def test_a_type_that_is_not_named_has_no_renamings() -> None:
    assert installed.renamings("llama") == ()
    assert installed.renamings("") == ()


def test_without_transformers_nothing_is_known_and_nothing_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneseek.registry.installed._text", lambda name: "")
    installed.causal_types.cache_clear()
    installed.renamings.cache_clear()

    try:
        assert installed.causal_types() is None
        assert installed.renamings("lfm3") == ()
        assert describe(write_model(tmp_path / "m", config={"model_type": "unheard"})).usable
    finally:
        installed.causal_types.cache_clear()
        installed.renamings.cache_clear()


def test_a_model_newer_than_transformers_is_refused_with_its_type(tmp_path: Path) -> None:
    (problem,) = describe(write_model(tmp_path / "m", config={"model_type": "unheard"})).problems

    assert problem.kind == "unknown-type"
    assert "'unheard'" in problem.problem
