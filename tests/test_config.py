from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.config.aliases import ABSENT, ALIASES
from oneseek.config.parse import ConfigProblem, parse
from oneseek.config.reference import number_text, sections, setting_of, settings
from oneseek.config.schema import MODEL_OVERRIDABLE, TrainingConfig


def only_problem(raw: dict[str, Any]) -> ConfigProblem:
    _, problems = parse(raw)
    assert len(problems) == 1, problems
    return problems[0]


def test_nothing_given_is_every_default_and_no_problem() -> None:
    config, problems = parse({})

    assert config == TrainingConfig()
    assert problems == ()


def test_a_number_out_of_bounds_is_said_with_its_value_and_its_range() -> None:
    problem = only_problem({"training": {"num_epochs": -1}})

    assert problem == ConfigProblem(
        kind="bound",
        field="training.num_epochs",
        value=-1,
        problem="training.num_epochs is -1.",
        fix="Set training.num_epochs to a whole number greater than 0 and at most 1000000 (recommended 1 to 10).",
        changes=(("training.num_epochs", 1),),
    )


@pytest.mark.parametrize(
    ("section", "field", "given", "taken"),
    [
        ("training", "learning_rate", "1e-4", 1e-4),
        ("training", "num_epochs", "5", 5),
        ("lora", "alpha", "16", 16.0),
        ("data", "validation_split", " 0.2 ", 0.2),
    ],
)
def test_text_that_is_a_number_is_taken_where_a_number_belongs(
    section: str, field: str, given: str, taken: float
) -> None:
    config, problems = parse({section: {field: given}})

    assert problems == ()
    assert getattr(getattr(config, section), field) == taken


@pytest.mark.parametrize("field", [setting.field for setting in settings().values() if "number" in setting.kind])
def test_every_number_is_bounded_on_both_sides_by_what_canonical_json_can_write(field: str) -> None:
    words = " and ".join(settings()[field].bounds)
    section, _, name = field.rpartition(".")

    raw: dict[str, Any] = {name: 2**53}
    for part in reversed(section.split(".")):
        raw = {part: raw}

    assert "than" in words.replace("less than", "") or "at least" in words
    assert "less than" in words or "at most" in words
    assert [(problem.kind, problem.field) for problem in parse(raw)[1]] == [("bound", field)]


@pytest.mark.parametrize("digits", [400, 5000])
@pytest.mark.parametrize("negative", [False, True])
def test_a_number_of_hundreds_of_digits_is_out_of_bounds_and_can_still_be_said(digits: int, negative: bool) -> None:
    huge = -(10**digits) if negative else 10**digits

    problem = only_problem({"data": {"max_length": huge}})

    assert (problem.kind, problem.field) == ("bound", "data.max_length")
    assert len(problem.problem) < 150


def test_numbers_are_written_as_people_write_them_however_large() -> None:
    assert [number_text(value) for value in (0.0005, 1e-5, 10.0, 10**15, 1e20, 0)] == [
        "0.0005", "1e-05", "10", "1000000000000000", "1e+20", "0",
    ]  # fmt: skip
    assert number_text(10**400) == "1" + "0" * 400


TEXTS = ("data.dataset", "data.validation_dataset", "output.directory", "output.version", "model.name")


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "caf\udce9.jsonl"])
@pytest.mark.parametrize("field", [*TEXTS, "model.base_models", "lora.target_modules"])
def test_text_that_no_file_name_or_json_can_hold_is_refused(field: str, text: str) -> None:
    section, name = field.split(".")
    given = [text] if field not in TEXTS else text

    problem = only_problem({section: {name: given}})

    assert problem.field == field
    assert problem.problem.isprintable()
    problem.problem.encode()


@pytest.mark.parametrize("key", ["\ud800", "a\0b"])
@pytest.mark.parametrize("at", [(), ("training",), ("per_model",)])
def test_a_key_that_cannot_be_written_is_refused_in_words_that_can(at: tuple[str, ...], key: str) -> None:
    raw: dict[str, Any] = {key: {"lora": {"r": 4}}}
    for part in at:
        raw = {part: raw}

    problem = only_problem(raw)

    assert problem.kind == "unknown"
    assert f"{problem.field}{problem.problem}{problem.fix}".isprintable()


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("my model,plain", ("my model", "plain")),
        (" a , b,", ("a", "b")),
        ("a b", ("a b",)),
        (["my model", "a,b"], ("my model", "a,b")),
        (("plain",), ("plain",)),
        ("", ()),
    ],
)
def test_text_is_split_at_commas_alone_and_a_list_is_taken_as_it_is(given: Any, names: tuple[str, ...]) -> None:
    config, problems = parse({"model": {"base_models": given}, "lora": {"target_modules": given or "x"}})

    assert problems == ()
    assert config.model.base_models == names
    assert config.lora.target_modules == (names or ("x",))


@pytest.mark.parametrize("value", ["abc", True, False, None, [1], {"a": 1}, 1.5, ""])
def test_what_is_no_whole_number_is_refused_and_the_default_stands(value: Any) -> None:
    config, problems = parse({"training": {"num_epochs": value}})

    assert [problem.field.split(".")[:2] for problem in problems] == [["training", "num_epochs"]]
    assert config.training.num_epochs == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), ".inf", "nan"])
def test_a_number_that_is_not_finite_is_out_of_bounds(value: Any) -> None:
    problem = only_problem({"training": {"learning_rate": value}})

    assert (problem.kind, problem.field) == ("bound" if value != ".inf" else "type", "training.learning_rate")


@pytest.mark.parametrize(
    ("raw", "field", "fix"),
    [
        ({"training": {"num_epoch": 1}}, "training.num_epoch", "Did you mean training.num_epochs?"),
        (
            {"lora": {"learning_rate": 1}},
            "lora.learning_rate",
            "learning_rate belongs to training: set training.learning_rate.",
        ),
        ({"epocs": 1}, "epocs", "Did you mean training.num_epochs (epochs)?"),
        ({"batchsize": 1}, "batchsize", "Did you mean training.batch_size?"),
        (
            {"training": {"bf16": True}},
            "training.bf16",
            "Remove training.bf16: the number type follows from the hardware.",
        ),
        (
            {"warmup_steps": 10},
            "warmup_steps",
            "Set training.warmup_ratio in place of warmup_steps: it is a share of all steps, from 0 to 1.",
        ),
        ({"lora_rnak": 1}, "lora_rnak", "Did you mean lora.r (lora_rank)?"),
        ({"lora": {"lora_rnak": 1}}, "lora.lora_rnak", "Did you mean lora.r (lora_rank)?"),
        ({"training": {"lora_rank": 1}}, "training.lora_rank", "lora_rank is lora.r here: set lora.r."),
        (
            {"training": {"lora": {"r": 4}}},
            "training.lora",
            "lora is a section of its own: write it beside training, not in it.",
        ),
        (
            {"adjust_strategy": {"top_model_boost": 1}},
            "adjust_strategy",
            "adjust_strategy belongs to adaptive_weights: set adaptive_weights.adjust_strategy.",
        ),
        ({"training": {"r": 4}}, "training.r", "r belongs to lora: set lora.r."),
        ({"trainig": {"seed": 1}}, "trainig", "Did you mean training?"),
        ({"per_model": {"a": {"lora": {"alfa": 1}}}}, "per_model.a.lora.alfa", "Did you mean per_model.a.lora.alpha?"),
    ],
)
def test_an_unknown_key_is_answered_with_the_key_that_was_meant(raw: dict[str, Any], field: str, fix: str) -> None:
    problem = only_problem(raw)

    assert (problem.kind, problem.field, problem.fix) == ("unknown", field, fix)


def test_an_unknown_key_without_a_near_one_is_answered_with_what_there_is() -> None:
    assert only_problem({"output": {"zzzz": 1}}).fix == "Remove output.zzzz. output has: directory, version."
    assert "lora has: r, alpha, dropout" in only_problem({"lora": {"bias": 1}}).fix


@pytest.mark.parametrize("name", ["sequence_parallel", "sample_size", "project", "eval_table", "output_path", "rank"])
def test_outside_of_all_sections_only_what_is_surely_meant_is_proposed(name: str) -> None:
    problem = only_problem({name: 1})

    assert (problem.fix, problem.changes) == (f"Remove {name}.", ())


@pytest.mark.parametrize(
    ("raw", "fix"),
    [
        ({"trainig": True}, "Remove trainig."),
        ({"displays": 1}, "Remove displays."),
        ({"num_epoch": {"a": 1}}, "Remove num_epoch."),
        ({"trainig": None}, "Did you mean training?"),
    ],
)
def test_a_section_is_proposed_for_what_may_be_one_and_a_setting_for_a_value(raw: dict[str, Any], fix: str) -> None:
    assert only_problem(raw).fix == fix


@pytest.mark.parametrize("name", sorted(ABSENT))
def test_of_a_well_known_name_without_a_counterpart_it_is_said_why(name: str) -> None:
    problem = only_problem({name: True})

    assert problem.fix.startswith((f"Remove {name}: ", f"Set {ABSENT[name].instead} in place of {name}: "))
    assert problem.changes == (() if ABSENT[name].instead else ((name, None),))


def test_no_name_is_said_to_be_absent_that_is_there() -> None:
    names = {known.rpartition(".")[2] for known in (*settings(), *sections())}

    assert ABSENT.keys() & (names | ALIASES.keys()) == set()
    assert {absent.instead for absent in ABSENT.values()} - settings().keys() == {""}


@pytest.mark.parametrize(
    ("raw", "changes"),
    [
        ({"batchsize": 4}, {"training.batch_size": 4, "batchsize": None}),
        ({"data": {"r": 8}}, {"lora.r": 8, "data.r": None}),
        ({"training": {"lora_rank": 8}}, {"lora.r": 8, "training.lora_rank": None}),
        ({"trainig": {"seed": 1, "keep": "last"}},
         {"training.seed": 1, "training.keep": "last", "trainig.seed": None, "trainig.keep": None}),
        ({"per_model": {"a.b": {"lora": {"alhpa": 8}}}},
         {"per_model.a.b.lora.alpha": 8, "per_model.a.b.lora.alhpa": None}),
        ({"output": {"version": 1.0}}, {"output.version": "1.0"}),
    ],
)  # fmt: skip
def test_a_key_that_surely_means_a_setting_carries_the_changes_that_mend_it(
    raw: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert only_problem(raw).changes == tuple(changes.items())


@pytest.mark.parametrize(
    "raw",
    [
        {"training": {"num_steps": 1000}},  # near, and something else
        {"enabled": True},  # of three sections
        {"batchsize": 4, "training": {"batch_size": 8}},  # would hide what is there
        {"batchsize": "many"},  # would be refused there, too
        {"lora_targt": "all"},  # is written otherwise there
        {"lora.r": 8},  # a dot in a key is not a step
        {"warmup_steps": 10},  # counts something else
        {"output": {"version": 1.1}},  # may have been 1.10
    ],
)
def test_what_is_only_perhaps_meant_carries_no_change(raw: dict[str, Any]) -> None:
    assert only_problem(raw).changes == ()


def test_a_key_that_is_no_text_is_refused() -> None:
    problem = only_problem({"training": {1: 2}})

    assert (problem.kind, problem.field) == ("unknown", "training.1")


def test_the_alternatives_of_one_field_give_one_problem() -> None:
    problem = only_problem({"lora": {"target_modules": 5}})

    assert problem.problem == "lora.target_modules is 5."
    assert problem.fix == "Set lora.target_modules to 'auto' or 'all-linear' or a list of names."


@pytest.mark.parametrize("value", ["", [], None])
def test_an_empty_list_of_targets_is_refused(value: Any) -> None:
    assert only_problem({"lora": {"target_modules": value}}).field == "lora.target_modules"


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("auto", "auto"),
        (["all-linear"], "all-linear"),
        ("q_proj, v_proj", ("q_proj", "v_proj")),
        (["c_attn"], ("c_attn",)),
    ],
)
def test_targets_are_a_word_or_names(value: Any, taken: Any) -> None:
    config, problems = parse({"lora": {"target_modules": value}})

    assert problems == ()
    assert config.lora.target_modules == taken


def test_an_empty_method_is_refused() -> None:
    problem = only_problem({"training": {"method": ""}})

    assert (problem.kind, problem.fix) == ("value", "Set training.method to 'sft' or 'dpo'.")


def test_a_section_that_is_no_section_is_refused_and_an_empty_one_is_not() -> None:
    problem = only_problem({"training": 5, "lora": None, "per_model": None})

    assert (problem.kind, problem.field) == ("type", "training")
    assert "num_epochs" in problem.fix


def test_two_ways_to_select_at_once_conflict() -> None:
    config, (problem,) = parse({"model": {"name": "a", "base_models": ["b", "c"]}})

    assert (problem.kind, problem.field) == ("conflict", "model.name")
    assert config.model.selection == ("b", "c")


@pytest.mark.parametrize("models", ["a", ["a"]])
def test_the_same_model_said_in_both_ways_is_no_conflict(models: Any) -> None:
    config, problems = parse({"model": {"name": "a", "base_models": models}})

    assert problems == ()
    assert config.model.selection == ("a",)


def test_atomic_writes_cannot_be_switched_off() -> None:
    problem = only_problem({"metadata": {"use_atomic_writes": False}})

    assert "cannot be switched off" in problem.problem


@pytest.mark.parametrize(("given", "taken"), [("1.0", "1.0"), ("v1.10", "1.10"), (None, None)])
def test_a_version_is_kept_as_major_and_minor(given: Any, taken: str | None) -> None:
    config, problems = parse({"output": {"version": given}})

    assert problems == ()
    assert config.output.version == taken


@pytest.mark.parametrize("given", [1.1, "one", "1", "../1.0"])
def test_what_is_no_version_is_refused(given: Any) -> None:
    assert only_problem({"output": {"version": given}}).field == "output.version"


def test_overrides_are_checked_like_the_settings_they_override() -> None:
    config, problems = parse(
        {"per_model": {"a": {"lora": {"r": 0, "alpha": "8"}, "training": {"learning_rate": "abc", "batch_size": True}}}}
    )

    assert {problem.field: problem.kind for problem in problems} == {
        "per_model.a.training.batch_size": "type",
        "per_model.a.lora.r": "bound",
        "per_model.a.training.learning_rate": "type",
    }
    assert config.per_model["a"].lora == {"alpha": 8.0}
    assert config.lora_for("a").alpha == 8.0
    assert config.lora_for("b").alpha == 32


def test_what_must_be_equal_for_all_models_cannot_be_overridden() -> None:
    problem = only_problem({"per_model": {"a": {"training": {"seed": 1}}}})

    assert problem.fix == "training.seed is the same for every model: set training.seed."


@pytest.mark.parametrize(
    "key", [f"{section}.{name}" for section in MODEL_OVERRIDABLE for name in sorted(MODEL_OVERRIDABLE[section])]
)
def test_every_overridable_setting_reaches_its_model_only(key: str) -> None:
    section, name = key.split(".")
    value = {"target_modules": ["x"], "lr_scheduler": "cosine", "use_rslora": True}.get(name, 0.25)
    if name in ("r", "batch_size", "gradient_accumulation_steps"):
        value = 3

    config, problems = parse({"per_model": {"a": {section: {name: value}}}})

    of = {"lora": config.lora_for, "training": config.training_for}[section]
    assert problems == ()
    assert getattr(of("a"), name) == (("x",) if name == "target_modules" else value)
    assert getattr(of("b"), name) == getattr(getattr(TrainingConfig(), section), name)


def test_a_configuration_survives_being_written_down_and_read_again() -> None:
    config, _ = parse({"per_model": {"a": {"lora": {"target_modules": "q,v"}}}, "model": {"base_models": "x,y"}})

    assert TrainingConfig.model_validate_json(config.model_dump_json()) == config
    assert parse(config.model_dump(mode="json")) == (config, ())


def test_all_problems_come_at_once_and_the_rest_is_taken() -> None:
    raw = {
        "training": {
            "num_epochs": -1,
            "batch_size": "abc",
            "epochs": 2,
            "learning_rate": 1e-3,
            "warmup_ratio": float("nan"),
            "max_grad_norm": float("inf"),
            "weight_decay": True,
            "lora": {"r": 4},
        },
        "target_modules": ["q_proj"],
        "lora": {"r": True, "rank": 1},
        "adaptive_weights": {"adjust_strategy": {"bottom_model_penalty": 1}},
        "nonsense": {},
    }

    config, problems = parse(raw)

    assert {problem.field for problem in problems} == {
        "training.num_epochs",
        "training.batch_size",
        "training.epochs",
        "training.warmup_ratio",
        "training.max_grad_norm",
        "training.weight_decay",
        "training.lora",
        "target_modules",
        "lora.r",
        "lora.rank",
        "adaptive_weights.adjust_strategy.bottom_model_penalty",
        "nonsense",
    }
    assert config.training.learning_rate == 1e-3
    assert all(problem.problem.endswith(".") and problem.fix for problem in problems)


def test_a_long_value_is_shortened_in_the_problem() -> None:
    problem = only_problem({"training": {"num_epochs": "x" * 10_000}})

    assert len(problem.problem) < 150


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from([*settings(), *TrainingConfig.model_fields, "per_model.a", "per_model.a.lora.r", "x.y"])


@given(st.dictionaries(FIELDS, JSON, max_size=6))
def test_nothing_that_a_person_can_write_breaks_the_parser(given: dict[str, Any]) -> None:
    raw: dict[Any, Any] = {}
    for field, value in sorted(given.items()):
        inner = raw
        *parents, name = field.split(".")
        for parent in parents:
            following = inner.setdefault(parent, {})
            inner = following if isinstance(following, dict) else {}
        inner[name] = value

    config, problems = parse(raw)

    assert parse(config.model_dump()) == (config, ())
    assert len({problem.field for problem in problems}) == len(problems)


def test_every_setting_has_a_meaning_and_every_number_a_bound() -> None:
    without = [setting.field for setting in settings().values() if not setting.text]
    boundless = [setting.field for setting in settings().values() if "number" in setting.kind and not setting.bounds]

    assert without == []
    assert boundless == []


def test_every_default_is_inside_its_recommended_range() -> None:
    for setting in settings().values():
        if setting.recommended:
            assert setting.recommended[0] <= setting.default <= setting.recommended[1], setting.field


def test_a_setting_of_one_model_is_described_by_the_setting_it_overrides() -> None:
    assert setting_of("per_model.a.lora.r") == settings()["lora.r"]
    assert setting_of("per_model.a.training.seed") is None
