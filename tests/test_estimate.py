from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.config.schema import TrainingConfig
from oneseek.engine import head
from oneseek.estimate import (
    FEWEST_TOKENS,
    FLOPS_OF_A_CORE,
    HEAD_CHUNK,
    MOST_TOKENS,
    Checkpointing,
    DiskEstimate,
    Pace,
    Reading,
    TokenBudget,
    adapter_parameters,
    disk,
    disk_of,
    kept_numbers,
    longest_row_bound,
    memory,
    memory_need,
    memory_of,
    pace,
    row_length,
    run_estimate,
    run_seconds,
    share_memory,
)
from oneseek.events import MemoryNeed
from oneseek.registry.capabilities import ModelInfo, lora_targets
from oneseek.registry.discover import describe
from support.base_models import write_model

MIB = 2**20


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelInfo:
    """2 layers, 16 channels, 32 in the MLP, 64 tokens."""
    return describe(write_model(tmp_path_factory.mktemp("models") / "llama", family="llama"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> ModelInfo:
    """2 layers, 16 channels, 64 in the MLP, which is not gated."""
    return describe(write_model(tmp_path_factory.mktemp("models") / "gpt2", family="gpt2"))


# -- one model -----------------------------------------------------------------------------------------------------


def test_memory_is_what_its_formula_says(llama: ModelInfo) -> None:
    targets = ["q_proj", "v_proj"]

    needed = memory(llama, lora_r=4, targets=targets, tokens=30, threads=2)

    channels = 2 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 32))  # q o, k v of one head, gate up down
    trainable = 2 * 4 * ((16 + 16) + (16 + 8))
    assert adapter_parameters(llama, 4, targets) == trainable
    assert kept_numbers(llama, 4, targets) == channels + 2 * 2 * 4
    assert needed.weights == 4 * llama.parameters
    assert (needed.adapter, needed.optimizer) == (12 * trainable, 8 * trainable)
    assert needed.activations == 30 * int(2.0 * 4 * (channels + 2 * 2 * 4))
    assert needed.logits == 4 * (3 * 256 * 64 + 2 * 30 * 16)
    assert needed.runtime == (400 + 2 * 8) * MIB
    assert needed.total == sum(msgspec.structs.astuple(needed))


def test_an_mlp_without_a_gate_keeps_more(gpt2: ModelInfo) -> None:
    channels = 2 * ((16 + 48) + (16 + 16) + 2 * (16 + 64))  # c_attn, c_proj, c_fc and the MLP's c_proj

    assert kept_numbers(gpt2, 4, []) == channels + 2 * 3 * 64


def test_with_checkpointing_the_inputs_of_the_layers_and_one_layer_are_kept(llama: ModelInfo) -> None:
    all_kept = kept_numbers(llama, 4, ["q_proj"])

    needed = memory(llama, lora_r=4, targets=["q_proj"], tokens=30, checkpointing=True)

    assert needed.activations == 30 * int(4 * (10 * 2 * 16 + 4 * all_kept / 2))


def test_a_head_of_the_models_own_makes_the_logits_of_all_tokens(llama: ModelInfo) -> None:
    chunked, own = (
        memory(llama, lora_r=4, targets=["q_proj"], tokens=1000, own_head=own_head) for own_head in (False, True)
    )

    assert own.logits - chunked.logits == 4 * 3 * (1000 - HEAD_CHUNK) * 64


def test_the_head_makes_as_many_logits_at_once_as_is_counted() -> None:
    assert head.CHUNK == HEAD_CHUNK


@pytest.mark.parametrize(("quantization", "bytes_each"), [(None, 4), ("8bit", 1.01), ("4bit", 0.52)])
def test_quantised_weights_are_those_of_linear_modules(llama: ModelInfo, quantization: Any, bytes_each: float) -> None:
    linear = sum(module.count * module.in_features * module.out_features for module in llama.linear_modules)

    needed = memory(llama, lora_r=4, targets=["q_proj"], tokens=1, quantization=quantization)

    assert needed.weights == int(4 * (llama.parameters - linear) + bytes_each * linear)


@given(tokens=st.integers(1, 10_000), r=st.integers(1, 256), checkpointing=st.booleans())
def test_memory_grows_with_tokens_rank_and_targets(llama: ModelInfo, tokens: int, r: int, checkpointing: bool) -> None:
    targets = lora_targets(llama, "all-linear")

    def total(tokens: int, r: int, targets: tuple[str, ...]) -> int:
        return memory(llama, lora_r=r, targets=targets, tokens=tokens, checkpointing=checkpointing).total

    assert total(tokens + 1, r, targets) > total(tokens, r, targets)
    assert total(tokens, r + 1, targets) > total(tokens, r, targets)
    assert total(tokens, r, targets[:2]) < total(tokens, r, targets)


@given(tokens=st.integers(0, 10_000), checkpointing=st.booleans())
def test_the_need_says_in_lines_what_the_estimate_says(llama: ModelInfo, tokens: int, checkpointing: bool) -> None:
    config = TrainingConfig()
    need = memory_need(llama, config, None)

    per_token = need.per_token_checkpointed if checkpointing else need.per_token

    assert memory_of(llama, config, tokens, checkpointing=checkpointing).total == need.fixed + tokens * per_token


def test_the_need_is_of_the_models_own_settings(llama: ModelInfo) -> None:
    plain = TrainingConfig.model_validate({"data": {"max_length": 100}})
    own = TrainingConfig.model_validate(
        {
            "data": {"max_length": 100},
            "per_model": {
                "llama": {"lora": {"r": 64}, "training": {"batch_size": 2, "gradient_accumulation_steps": 3}}
            },
        }
    )

    first, second = memory_need(llama, plain, 50), memory_need(llama, own, 50)

    assert first.fixed < second.fixed
    assert (first.longest_row, first.longest_step) == (50, 400)
    assert (second.longest_row, second.longest_step) == (50, 300)


def test_a_pair_of_answers_is_computed_at_once(llama: ModelInfo) -> None:
    config = TrainingConfig.model_validate({"data": {"max_length": 100}, "training": {"method": "dpo"}})

    assert memory_need(llama, config, None).longest_row == 200
    assert memory_need(llama, config, 150).longest_row == 150


def test_a_target_counts_by_the_end_of_its_path(llama: ModelInfo) -> None:
    assert adapter_parameters(llama, 4, ["self_attn.q_proj"]) == adapter_parameters(llama, 4, ["q_proj"]) > 0
    assert adapter_parameters(llama, 4, ["proj"]) == 0


# -- several models ------------------------------------------------------------------------------------------------


def need(fixed: int = 100, per_token: int = 10, row: int = 100, step: int = 10_000, again: int = 1) -> MemoryNeed:
    return MemoryNeed(
        fixed=fixed, per_token=per_token, per_token_checkpointed=again, longest_row=row, longest_step=step
    )


def budgets(needs: list[MemoryNeed], free: int, checkpointing: Checkpointing = "auto") -> tuple[int, list[int]]:
    shared = share_memory(needs, free, checkpointing, len(needs))
    return shared.at_once, [budget.tokens for budget in shared.budgets]


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (100_000, (2, [1024, 1024])),
        (20_000, (2, [790, 790])),  # 2 · (100 + 790 · 10) = 16,000, four fifths
        (6_650, (2, [256, 256])),
        (6_649, (1, [521, 521])),
        (2_000, (1, [150, 150])),
        (1_375, (1, [100, 100])),
    ],
)
def test_models_work_side_by_side_with_smaller_budgets_before_they_take_turns(
    free: int, expected: tuple[int, list[int]]
) -> None:
    assert budgets([need(), need()], free) == expected


def test_any_so_many_models_fit_together() -> None:
    large, small = need(fixed=50_000), need()

    assert budgets([large, small, small], 2 * 90_000)[0] == 3
    assert budgets([large, small, small], 70_000)[0] == 2  # large and one small, at 256 tokens 55,320
    assert budgets([large, small, small], 60_000)[0] == 1


def test_no_more_is_computed_at_once_than_a_step_has() -> None:
    assert budgets([need(step=300), need(row=2000)], 10**9) == (2, [300, 2000])


def test_activations_are_computed_twice_where_the_longest_row_does_not_fit() -> None:
    fits, does_not = (share_memory([need(row=500)], free, "auto", 1).budgets[0] for free in (6_375, 6_374))

    assert fits == TokenBudget(tokens=500, checkpointing=False)
    assert does_not == TokenBudget(tokens=1024, checkpointing=True)


def test_activations_are_not_computed_twice_where_that_would_not_help() -> None:
    assert not share_memory([need(row=500, again=10)], 1000, "auto", 1).budgets[0].checkpointing


@pytest.mark.parametrize(("setting", "checkpointing"), [("always", True), ("never", False)])
def test_what_the_administrator_says_of_checkpointing_holds(setting: Checkpointing, checkpointing: bool) -> None:
    found = [share_memory([need()], free, setting, 1).budgets[0].checkpointing for free in (0, 10**9)]

    assert found == [checkpointing, checkpointing]


def test_models_take_turns_where_something_else_asks_for_it() -> None:
    assert share_memory([need(), need()], 10**9, "auto", 1).at_once == 1


needs = st.lists(
    st.builds(
        lambda fixed, per_token, share, row, steps: need(
            fixed, per_token, row, row * steps, max(1, int(per_token * share))
        ),
        fixed=st.integers(1, 10**9),
        per_token=st.integers(1, 10**6),
        share=st.floats(0.01, 1),
        row=st.integers(1, 5000),
        steps=st.integers(1, 64),
    ),
    min_size=1,
    max_size=5,
)
settings = st.sampled_from(("auto", "always", "never"))


@given(needs=needs, free=st.integers(0, 10**12), checkpointing=settings)
def test_budgets_are_between_the_longest_row_and_the_ceiling(
    needs: list[MemoryNeed], free: int, checkpointing: Checkpointing
) -> None:
    shared = share_memory(needs, free, checkpointing, len(needs))

    assert 1 <= shared.at_once <= len(needs)
    for one, budget in zip(needs, shared.budgets, strict=True):
        assert one.longest_row <= budget.tokens <= max(one.longest_row, min(MOST_TOKENS, one.longest_step))


@given(needs=needs, free=st.integers(0, 10**12), checkpointing=settings)
def test_what_is_computed_at_once_fits_unless_one_longest_row_does_not(
    needs: list[MemoryNeed], free: int, checkpointing: Checkpointing
) -> None:
    shared = share_memory(needs, free, checkpointing, len(needs))

    bytes_each = [
        one.fixed + budget.tokens * (one.per_token_checkpointed if budget.checkpointing else one.per_token)
        for one, budget in zip(needs, shared.budgets, strict=True)
    ]
    together = sum(sorted(bytes_each)[-shared.at_once :])
    least = all(budget.tokens == one.longest_row for one, budget in zip(needs, shared.budgets, strict=True))
    assert together <= free * 0.8 or (shared.at_once == 1 and least) or needs_more(needs, shared.budgets, free)


def needs_more(needs: list[MemoryNeed], budgets: tuple[TokenBudget, ...], free: int) -> bool:
    """Whether some model's longest row alone does not fit."""
    return any(
        one.fixed + one.longest_row * (one.per_token_checkpointed if budget.checkpointing else one.per_token)
        > free * 0.8
        for one, budget in zip(needs, budgets, strict=True)
    )


@given(needs=needs, free=st.integers(0, 10**11), more=st.integers(0, 10**11), checkpointing=settings)
def test_more_memory_never_gives_less(
    needs: list[MemoryNeed], free: int, more: int, checkpointing: Checkpointing
) -> None:
    """More models at once, or fewer that compute twice, or larger budgets."""
    before, after = (share_memory(needs, bytes_, checkpointing, len(needs)) for bytes_ in (free, free + more))

    again, still = ([budget.checkpointing for budget in shared.budgets] for shared in (before, after))
    assert all(was or not now for was, now in zip(again, still, strict=True))
    if again == still:
        assert before.at_once <= after.at_once
        if before.at_once == after.at_once:
            assert all(a.tokens <= b.tokens for a, b in zip(before.budgets, after.budgets, strict=True))


@given(free=st.integers(0, 10**6), count=st.integers(1, 6))
def test_side_by_side_each_has_the_fewest_tokens_that_are_worth_it(free: int, count: int) -> None:
    at_once, tokens = budgets([need(row=1)] * count, free, "never")

    assert at_once == 1 or min(tokens) >= FEWEST_TOKENS


# -- rows, and the disk --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "length"),
    [([], 128), ([{"text": "x" * 50}, {"text": "y"}], 61), ([{"text": "å"}], 13), ([{"text": "x" * 500}], 128)],
)
def test_a_row_is_as_long_as_its_bytes_the_context_or_max_length_whichever_is_least(
    llama: ModelInfo, rows: list[dict[str, str]], length: int
) -> None:
    longest = longest_row_bound(rows)

    assert row_length(llama, 2048, longest) == length
    assert row_length(llama, 10, longest) == 10
    assert row_length(msgspec.structs.replace(llama, context_length=None), 2048, None) == 2048


@given(rows=st.lists(st.dictionaries(st.text(max_size=3), st.text() | st.integers() | st.none()), max_size=4))
def test_no_row_has_more_bytes_than_the_bound_says(rows: list[dict[str, Any]]) -> None:
    bound = longest_row_bound(rows)

    lengths = [len("".join(value for value in row.values() if isinstance(value, str)).encode()) for row in rows]
    assert (bound is None) == (rows == [])
    assert all(length <= (bound or 0) for length in lengths)


@pytest.mark.parametrize(
    ("inside_epochs", "checkpoints", "adapters"),
    [(False, 3, 5), (True, 6, 0)],
    ids=["at the end", "in an epoch"],
)
def test_disk_holds_checkpoints_of_adapter_and_moments_and_copies_of_the_adapter(
    llama: ModelInfo, inside_epochs: bool, checkpoints: int, adapters: int
) -> None:
    trained = 4 * adapter_parameters(llama, 4, ["q_proj"])

    needed = disk(llama, 4, ["q_proj"], inside_epochs=inside_epochs)

    assert needed == DiskEstimate(checkpoints=checkpoints * 3 * trained, adapters=adapters * trained)
    assert needed.total == needed.checkpoints + needed.adapters


def test_checkpoints_inside_epochs_count_where_there_are_some(llama: ModelInfo) -> None:
    without, inside = (
        disk_of(llama, TrainingConfig.model_validate({"training": {"checkpoint_every": steps}})) for steps in (None, 10)
    )

    assert inside.total > without.total


# -- time ----------------------------------------------------------------------------------------------------------


READING = Reading(90, 10, 50)


def pace_of(info: ModelInfo, read: Reading = READING, threads: int = 1, again: bool = False, **training: Any) -> Pace:
    config = TrainingConfig.model_validate({"training": training, "data": {"max_length": 100}})
    return pace(info, config, read, threads=threads, checkpointing=again)


def test_an_epoch_takes_what_its_operations_take(llama: ModelInfo) -> None:
    config = TrainingConfig.model_validate({"lora": {"r": 4, "target_modules": ["q_proj"]}})
    frozen = 2 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 32)
    adapter = 2 * 4 * (16 + 16)
    others = 6 * 50 * 16 * 2 - 2 * 50 * 16 * 2 + 4 * 16 * 64  # attention of two layers, the head
    trained = 4 * frozen + 6 * adapter + others

    found = pace(llama, config, Reading(90, 0, 50), threads=2, checkpointing=False)

    assert found.epoch == pytest.approx(90 * 50 * trained / (2 * FLOPS_OF_A_CORE))


def test_time_grows_with_rows_and_checkpointing_and_falls_with_threads(llama: ModelInfo) -> None:
    usual = pace_of(llama).epoch

    assert pace_of(llama, Reading(180, 20, 50)).epoch == pytest.approx(2 * usual)
    assert pace_of(llama, again=True).epoch > usual
    assert pace_of(llama, threads=4).epoch == pytest.approx(usual / 4)


def test_rows_count_as_long_as_they_are_once_cut(llama: ModelInfo) -> None:
    assert pace_of(llama, Reading(90, 10, 5000)) == pace_of(llama, Reading(90, 10, 100))


def test_preferences_are_looked_at_once_before(llama: ModelInfo) -> None:
    assert pace_of(llama).once == 0
    assert pace_of(llama, method="dpo").once > 0


def test_models_of_a_run_wait_for_each_other_in_every_epoch() -> None:
    quick, slow = Pace(load=1, once=1, epoch=10), Pace(load=2, once=0, epoch=30)

    assert run_seconds([quick], 3, 1) == 2 + 3 * 10
    assert run_seconds([quick, slow], 3, 2) == 2 + 3 * 30
    assert run_seconds([quick, slow], 3, 2, slower=1.5) == 1.5 * (2 + 3 * 30)


def test_models_that_take_turns_are_loaded_anew() -> None:
    one = Pace(load=2, once=0, epoch=10)

    assert run_seconds([one, one], 3, 1) == 4 + 3 * (20 + 2)


paces = st.lists(
    st.builds(Pace, load=st.floats(0, 100), once=st.floats(0, 100), epoch=st.floats(0, 1000)), min_size=1, max_size=6
)


@given(paces=paces, epochs=st.integers(1, 10), at_once=st.integers(1, 6))
def test_a_run_takes_as_long_as_its_slowest_model_and_no_longer_than_all_in_turn(
    paces: list[Pace], epochs: int, at_once: int
) -> None:
    each = [run_seconds([pace], epochs, 1) for pace in paces]

    together = run_seconds(paces, epochs, min(at_once, len(paces)))

    assert max(each) <= together * (1 + 1e-9)
    assert together <= run_seconds(paces, epochs, 1) * (1 + 1e-9)


# -- a run ---------------------------------------------------------------------------------------------------------


def test_the_estimate_of_a_run_has_its_parts_totals_and_time(llama: ModelInfo, gpt2: ModelInfo) -> None:
    config = TrainingConfig.model_validate({"data": {"max_length": 100}})

    found = run_estimate(
        config,
        [llama, gpt2],
        free_bytes=2**34,
        cores=4,
        longest_row=lambda key: 80,
        reading={"llama": READING, "gpt2": READING},
    )

    assert (found.at_once, found.threads) == (2, 2)
    assert found.seconds == pytest.approx(max(model.seconds or 0 for model in found.models), rel=1e-4)
    wire = found.wire()["models"][0]
    assert wire["key"] == "llama"
    assert wire["tokens_per_epoch"] == 90 * 50
    assert wire["memory"]["total"] == memory_of(llama, config, wire["tokens_at_once"]).total
    assert wire["disk"]["total"] == disk_of(llama, config).total


def test_no_time_is_told_of_rows_that_are_not_known(llama: ModelInfo, gpt2: ModelInfo) -> None:
    found = run_estimate(
        TrainingConfig(),
        [llama, gpt2],
        free_bytes=2**34,
        cores=2,
        longest_row=lambda key: None,
        reading={"llama": READING},
    )

    assert found.seconds is None
    assert [model.seconds is None for model in found.models] == [False, True]
    assert found.models[1].tokens_per_epoch is None
