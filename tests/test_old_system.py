"""What the old system left is listed and shown for what it is, and every name of it has a place on the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as some

from oneseek import runs
from oneseek.cli import LazyGroup, oneseek
from oneseek.config.reference import settings
from oneseek.errors import RunError
from oneseek.files.versions import versions_taken
from oneseek.runs.find import place
from oneseek.runs.old import MAX_DOCUMENT, find_old, name_here, old_runs
from support.old_system import (
    ALWAYS_THE_SAME,
    BOTH_MODELS,
    CERTIFIED,
    COLONS,
    FIRST_MODEL,
    KEY,
    ONE_DOT,
    TWO_DOTS,
    OldSystem,
)
from support.runs import Town

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "oneseek"


@pytest.fixture
def old(town: Town) -> OldSystem:
    """What the old system left in the town's own home."""
    return OldSystem(town.root)


def test_both_metadata_files_of_one_version_are_listed_with_what_each_says(town: Town, old: OldSystem) -> None:
    old.metadata(TWO_DOTS, FIRST_MODEL)
    old.metadata(ONE_DOT, BOTH_MODELS)

    found = old_runs(town.home)

    assert [(run.name, run.base_models) for run in found] == [
        (ONE_DOT, ("Mistral-7B", "LLaMA-2-7B")),
        (TWO_DOTS, ("mistral-7b-instruct",)),
    ]
    assert found[1].version == "OneSeek-7B-Zero.v1.0.cd830c2a.c3a28ca9.687da763"
    assert found[1].created_at == "2025-11-22T00:13:11.127Z"
    assert {run.status for run in found} == {"not verifiable"}
    assert {run.problem for run in found} == {None}


@pytest.mark.parametrize("folder", ["weights", "."])
def test_metadata_is_found_in_both_places_and_its_version_is_not_given_again(
    town: Town, old: OldSystem, folder: str
) -> None:
    old.metadata("oneseek-7b-zero-v1.4..json", ALWAYS_THE_SAME, old.family / folder)

    run = town.submit(training__num_epochs=1)
    with run:
        version = run.state.accepted.version

    assert [each.base_models for each in old_runs(town.home)] == [("Mistral-7B", "LLaMA-2")]
    assert (1, 4) in versions_taken(town.results)
    assert version == "1.5"


def test_a_certified_directory_is_listed_by_its_name_with_colons_too(town: Town, old: OldSystem) -> None:
    old.run(COLONS)

    (found,) = old_runs(town.home)

    assert (found.name, found.version, found.base_models) == (COLONS, "OneSeek-7B-Zero.v1.0.42a8c9", (KEY,))
    assert found.created_at == "2023-11-22T14:30:25"
    assert found.documents == CERTIFIED
    assert find_old(COLONS, town.home) == find_old(str(old.runs / COLONS), town.home)


@pytest.mark.parametrize(
    ("file", "document"),
    [
        ("training_results.json", {"trained_models": [KEY]}),
        ("training_results.json", {"trained_models": {KEY: {"loss": 0.245}}}),
        ("oneseek_dna.json", {"final_weights": {KEY: 1.0}}),
        ("live_metrics.json", {"type": "epoch_end", "weights": {KEY: 1.0}}),
    ],
    ids=["list", "by-model", "final-weights", "weights"],
)
def test_base_models_are_known_from_files_that_do_not_list_them(
    town: Town, old: OldSystem, file: str, document: dict[str, Any]
) -> None:
    old.run("run-20251123-001234", {file: document})

    (found,) = old_runs(town.home)

    assert found.base_models == (KEY,)


def test_runs_of_this_release_are_not_taken_for_old_ones(town: Town) -> None:
    directory, _ = town.train()

    assert old_runs(town.home) == []
    with pytest.raises(RunError, match=f"belongs to {directory.run_id}"):
        find_old(str(town.results.metadata("1.0")), town.home)
    assert find_old(str(directory.root), town.home) is None


def test_what_needs_a_journal_says_that_an_old_run_has_none(town: Town, old: OldSystem) -> None:
    old.run(COLONS)
    old.run("run-20231122-143026")
    old.metadata(TWO_DOTS, FIRST_MODEL)

    for name in (COLONS, str(old.runs / COLONS), "run-20231122-143026", TWO_DOTS):
        with pytest.raises(RunError, match=r"is of the old system: it has no journal, so it can't be .* only listed"):
            runs.find(name, town.home)


def test_a_run_of_this_release_without_its_journal_is_not_said_to_be_an_old_one(town: Town) -> None:
    directory, _ = town.train()
    directory.manifest.write_text("{}")
    directory.journal.unlink()

    with pytest.raises(RunError, match=r"has no journal here\. Its journal\.jsonl is missing"):
        runs.find(directory.run_id, town.home)


@pytest.mark.parametrize("name", ["", "x" * 5000, "x\0y"])
def test_what_is_no_name_is_the_name_of_no_run(
    town: Town, old: OldSystem, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    directory, _ = town.train()
    monkeypatch.chdir(directory.root)

    for look in (runs.find, place):
        with pytest.raises(RunError, match="neither a run id nor"):
            look(name, town.home)


def test_an_old_run_is_verified_by_its_name_as_by_its_path(town: Town, old: OldSystem) -> None:
    path = old.run(COLONS)

    by_name, by_path = (
        CliRunner().invoke(oneseek, ["verify", name, "--home", str(town.root)]) for name in (COLONS, str(path))
    )

    assert by_name.exit_code == by_path.exit_code == 1
    assert by_name.output == by_path.output
    assert "not verifiable" in " ".join(by_name.output.split())


def test_metadata_whose_run_is_gone_says_which_one(town: Town, old: OldSystem) -> None:
    old.metadata(ONE_DOT, {**BOTH_MODELS, "run_id": "run-20251122-143025"})
    old.metadata(TWO_DOTS, {**FIRST_MODEL, "run_id": "../../elsewhere"})

    reasons = {run.name: run.reason for run in old_runs(town.home)}

    assert "run-20251122-143025, is not here" in reasons[ONE_DOT]
    assert "neither a journal nor a signature" in reasons[TWO_DOTS]


def test_a_run_of_this_release_without_its_journal_says_so(town: Town) -> None:
    directory, _ = town.train()
    directory.manifest.touch()
    directory.journal.unlink()

    found = find_old(directory.run_id, town.home)

    assert found is not None
    assert found.reason == "Its journal.jsonl is missing."


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"baseModels": ["Mistr', "is not JSON"),
        ("", "is not JSON"),
        ("[1, 2]", "holds no JSON object"),
        ('{"baseModels": "Mistral-7B"}', "Expected `array`"),
        ('{"version": 1.0}', "Expected `str`"),
        ("[" * 100_000, "is not JSON"),
        ('{"version": "\\ud800"}', "is not JSON"),
        ('{"big": ' + "9" * 5000 + "}", "is not JSON"),
        (" " * (MAX_DOCUMENT + 1), "16.8 MB at most"),
    ],
    ids=["torn", "empty", "list", "one-model", "number", "deep", "surrogate", "huge-number", "huge"],
)
def test_a_broken_document_is_listed_with_its_problem(town: Town, old: OldSystem, content: str, problem: str) -> None:
    path = old.metadata(ONE_DOT, content)

    (found,) = old_runs(town.home)

    assert str(path) in (found.problem or "")
    assert problem in (found.problem or "")


def test_a_link_is_not_followed(town: Town, old: OldSystem, tmp_path: Path) -> None:
    elsewhere = tmp_path / "secret.json"
    elsewhere.write_text(json.dumps(BOTH_MODELS))
    old.metadata(TWO_DOTS, FIRST_MODEL)
    (old.weights / ONE_DOT).symlink_to(elsewhere)
    old.run("run-20251122-010916")
    (old.runs / "run-20251122-010917").symlink_to(old.runs / "run-20251122-010916")

    found = {run.name: run for run in old_runs(town.home)}

    assert set(found) == {TWO_DOTS, ONE_DOT, "run-20251122-010916"}
    assert found[ONE_DOT].documents == {}
    assert "is a link" in (found[ONE_DOT].problem or "")


def test_a_loss_that_was_no_number_and_a_byte_order_mark_are_read(town: Town, old: OldSystem) -> None:
    old.metadata(ONE_DOT, '\ufeff{"version": "OneSeek-7B-Zero.v1.0", "loss": NaN}')

    (found,) = old_runs(town.home)

    assert found.problem is None
    assert found.documents == {ONE_DOT: {"version": "OneSeek-7B-Zero.v1.0", "loss": None}}


def test_a_name_that_is_there_twice_needs_its_path(town: Town, old: OldSystem) -> None:
    old.metadata(ONE_DOT, FIRST_MODEL)
    path = old.metadata(ONE_DOT, BOTH_MODELS, old.family)

    with pytest.raises(RunError, match="is the name of several") as refused:
        find_old(ONE_DOT, town.home)

    assert str(path.relative_to(town.root)) in refused.value.fix
    assert getattr(find_old(str(path), town.home), "base_models", None) == ("Mistral-7B", "LLaMA-2-7B")


FIELDS = some.sampled_from(["version", "dna", "createdAt", "baseModels", "trained_models", "final_weights", "run_id"])
VALUES = some.recursive(
    some.none() | some.booleans() | some.floats() | some.integers() | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=2) | some.dictionaries(FIELDS, inner, max_size=2),
    max_leaves=5,
)


@effort(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some.binary(max_size=200) | some.dictionaries(FIELDS, VALUES).map(lambda said: json.dumps(said).encode()))
def test_no_content_breaks_the_listing(town: Town, old: OldSystem, content: bytes) -> None:
    old.metadata(ONE_DOT, "").write_bytes(content)

    (found,) = old_runs(town.home)

    assert found.problem or ONE_DOT in found.documents


@pytest.mark.parametrize(
    ("name", "here"),
    [
        (COLONS, "run-20231122-143025"),
        ("run-20251122-010916", "run-20251122-010916"),
        ("run-20251122-010916-2", "run-20251122-010916-2"),
        ("run_2023-11-22_14-30-25", "run-20231122-143025"),
        ("run-of-tuesday", None),
        ("run:2023-11-22:14:30:25:../..", None),
        ("run-20231122-143025\n", None),
    ],
)
def test_a_directory_of_any_older_form_gets_ours(name: str, here: str | None) -> None:
    assert name_here(name) == here


# The page.

NAMED = """
ml/training/pytorch_trainer.py  pytorch_trainer.py  ml/training/train_language_model.py  train_language_model.py
scripts/train_dna_v2.py  train_dna_v2.py  test_pytorch_trainer.py  DYNAMIC_BASE_MODEL_SUPPORT.md
docs/training-config.md  train_with_pytorch_lora()  train_single_model_lora()  check_base_models()
selected_base_models  models_to_train  selected_models  normalize_model_name()  get_model_display_name()
remove_separators()  DEFAULT_MODEL_KEY  unknown-model  EXCLUDED_DIRS  --dataset  --epochs  --base-models
multiModelMode  backend/config/trainingConfig.js  trainingConfig.js  pipelineConfig.js  scripts/training_config.py
training_config.py  TRAINING_CONFIG  TRAINING_CONFIG.defaults  generateRunId()  validateBaseModels()
validate_base_models()  get_config()  pj.yaml  adaptive_weights  min_multiplier  max_multiplier  adjust_strategy
top_model_boost  bottom_model_penalty  normalize_weights  adjust_every_epoch  confidence_auto_stop  threshold
patience  min_epochs  live_leaderboard  refresh_interval  show_weights  show_lr_multipliers  show_loss_per_model
show_progress  metadata  naming_pattern  timestamp_format  use_atomic_writes  temp_suffix  BASE_MODELS  MODELS_DIR
LEDGER_URL  LEDGER_PRIVATE_KEY_PATH  models/oneseek-7b-zero/base_models/  models/  pytorch_model.bin  lora_adapters/
mistral-adapter/  llama-adapter/  {model-name}-adapter/  oneseek-7b-zero-v{version}-{model}.pth
oneseek-7b-zero-v1.0.json  oneseek-7b-zero-v1.0..json  version  createdAt  baseModels  modelSpecificWeights
OneSeek-7B-Zero-CURRENT  models/oneseek-certified/{run_id}/  run:2023-11-22:14:30:25  oneseek_dna.json
training_results.json  live_metrics.json  ledger_proof.json  dna  final_weights  trained_models  metrics
dna_v2_training_completed  backend/api/admin.js  admin.js  training_metrics.js  training_ws.js  LiveLeaderboard.jsx
TrainingControl.jsx  datasetId  epochs  learningRate  autoStopThreshold  autoStopPatience  /ws/training
initial_state  epoch_end  weight_adjustment  training_complete  val_losses  weights  lr_multipliers  total_loss
auto_stop_info  progress_percent  config_validator.py  validate_config()  validate_dataset_format()
KNOWN_LORA_TARGETS  gpt2  gpt-neo  gpt-j  model.name  training.method  data.strategy  messages  text  num_epochs
batch_size  learning_rate  lora.r  lora.alpha
"""
WITH_SPACES = [
    "POST /api/admin/training/start-dna-v2",
    "GET /api/training/{runId}/metrics",
    "POST /api/training/{runId}/metrics",
    "GET /api/training/{runId}/leaderboard",
    'config["training"]',
    'config["lora"]',
]
IN_WORDS = [
    "the execute endpoint",
    "400 Bad Request",
    "dual-model mode",
    "minimum examples",
    "job status pending",
    "cache status",
    "pre-submission validation",
    "dataset upload",
    "format conversion",
]
PAGE = (ROOT / "docs" / "from-the-old-system.md").read_text(encoding="utf-8")
TABLES = re.findall(r"^\| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
ROWS = [(there, here) for there, here in TABLES if there != "there"]
SOURCES = "\n".join(path.read_text() for path in SOURCE.rglob("*.py"))


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def is_command(name: str) -> bool:
    command: Any = LazyGroup("oneseek")
    for word in name.split()[1:]:
        command = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
    return command is not None


def is_here(name: str) -> bool:
    """Whether something of this release is named so: a command, a file, a folder, a page, a setting, or a word of the
    source."""
    if name.startswith("oneseek "):
        return is_command(name)
    if name.startswith(("docs/", "tests/")):
        return (ROOT / name).exists()
    if "/" in name or name.endswith(".py"):
        return (SOURCE / name).exists()
    if "." in name:
        return name in settings()
    return re.search(rf"(?<![\w-]){re.escape(name)}\b", SOURCES) is not None


@pytest.mark.parametrize("name", [*NAMED.split(), *WITH_SPACES])
def test_everything_that_the_old_documents_name_has_a_row(name: str) -> None:
    assert name in {each for there, _ in ROWS for each in quoted(there)}


@pytest.mark.parametrize("words", IN_WORDS)
def test_what_they_only_describe_has_a_row_too(words: str) -> None:
    assert any(words in there for there, _ in ROWS)


@pytest.mark.parametrize(("there", "here"), ROWS)
def test_what_the_page_points_to_is_there(there: str, here: str) -> None:
    assert [name for name in quoted(here) if not is_here(name)] == []
    assert quoted(here) or here.startswith(("comes with", "gone, because", "the ")), there


@pytest.mark.parametrize(
    "name",
    ["oneseek runs bring", "runs/older.py", "docs/none.md", "training.epochs", "no_such_word", "elsewhere/", "--bring"],
)
def test_a_place_that_is_not_there_is_found_out(name: str) -> None:
    assert not is_here(name)


def test_a_function_stands_in_the_file_that_the_page_says() -> None:
    pairs = [pair for _, here in ROWS for pair in re.findall(r"`(\w+)` in `([\w/]+\.py)`", here)]

    assert len(pairs) > 30
    assert [(name, file) for name, file in pairs if not re.search(rf"\b{name}\b", (SOURCE / file).read_text())] == []
