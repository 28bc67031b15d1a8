"""From a configuration to an accepted run: everything checked first, then an id and a version that nobody else has."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from oneseek import __version__
from oneseek.config.parse import ConfigProblem
from oneseek.config.schema import TrainingConfig
from oneseek.datasets.formats import STRATEGY_OF, USED_AS
from oneseek.datasets.quarantine import quarantine
from oneseek.datasets.split import files_digest, rows_digest, split
from oneseek.engine.interface import EngineName
from oneseek.errors import ConfigError
from oneseek.estimate import memory_need
from oneseek.events import DatasetUsed, RunAccepted, SelectedModel
from oneseek.files.durable import create_exclusively, storage_errors, sync_directory
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.files.versions import versions_taken
from oneseek.journal.file import begins
from oneseek.names import format_version, is_run_id, next_version, parse_version, run_id
from oneseek.preflight import check
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Finding, PreflightError
from oneseek.preflight.gather import gather
from oneseek.preflight.looking import ANEW, Looking
from oneseek.registry.capabilities import ModelInfo, lora_targets
from oneseek.runs.prepare import digests_of
from oneseek.runs.recorder import Recorder, Watch, marks, nobody
from oneseek.runs.turn import turn


def submit(
    config: TrainingConfig,
    home: Home,
    *,
    problems: Sequence[ConfigProblem] = (),
    watch: Watch = nobody,
    warn: Callable[[Sequence[Finding]], object] = lambda warnings: None,
    engine: EngineName = "torch",
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Recorder:
    """Check everything, then accept the run: its journal begins, and this process may write it.

    warn: told the findings that refuse nothing, whole; of each the journal keeps the problem.

    Raises:
        PreflightError: with all findings, where one of them is an error. Nothing was written.
    """
    facts, findings = inspect(config, home, problems=problems)
    if any(finding.severity == "error" for finding in findings):
        raise PreflightError(findings)
    warn(findings)
    results = Results(_output(config, home).resolve())
    models = tuple(_selected(model, config, facts.longest_row(model.key)) for model in facts.models)
    dataset = dataset_used(facts, config)
    with turn(results):
        sweep_abandoned(results)
        version = _free_version(results, config.output.version)
        directory = _reserve_run(results, now())
        create_exclusively(results.reservation(version), directory.run_id.encode() + b"\n")
        _quarantine(dataset, directory)
        accepted = RunAccepted(
            run_id=directory.run_id,
            version=version,
            oneseek_version=__version__,
            engine=engine,
            config=config.model_dump(mode="json"),
            models=models,
            available=tuple(sorted(facts.available)),
            dataset=dataset,
            warnings=tuple(finding.problem for finding in findings),
        )
        return Recorder.begin(directory, accepted, watch)


def inspect(
    config: TrainingConfig, home: Home, *, problems: Sequence[ConfigProblem] = (), looking: Looking = ANEW
) -> tuple[Facts, tuple[Finding, ...]]:
    """What is there, and everything that is wrong with the request, at once."""
    facts = gather(config, problems, home, _output(config, home), looking)
    return facts, check(config, facts)


def _output(config: TrainingConfig, home: Home) -> Path:
    return Path(config.output.directory) if config.output.directory else home.models


def _selected(model: ModelInfo, config: TrainingConfig, longest_row: int | None) -> SelectedModel:
    found = digests_of(model)
    return SelectedModel(
        key=model.key,
        display_name=model.display_name,
        path=str(Path(model.path).resolve()),
        target_modules=lora_targets(model, config.lora_for(model.key).target_modules),
        memory=memory_need(model, config, longest_row),
        weights_sha256=found.weights_sha256,
        config_sha256=found.config_sha256,
        tokenizer_sha256=found.tokenizer_sha256,
        template_sha256=found.template_sha256,
        hub_id=model.hub_id,
        revision=model.revision,
    )


def dataset_used(facts: Facts, config: TrainingConfig) -> DatasetUsed:
    """The rows that a run of this configuration would use; preflight lets none pass without a dataset."""
    dataset, validation = facts.dataset, facts.validation
    if dataset is None:
        raise ValueError("There is no dataset.")
    if validation is None:
        sides = split(dataset.digests, config.data.validation_split, config.training.seed)
        training_rows, validation_rows = len(sides.training), len(sides.validation)
        digest = rows_digest(dataset.rows_sha256, sides)
    else:
        training_rows, validation_rows = dataset.rows, validation.rows
        digest = files_digest(dataset.rows_sha256, validation.rows_sha256)
    used = USED_AS[dataset.format]
    return DatasetUsed(
        path=str(Path(dataset.path).resolve()),
        sha256=dataset.sha256,
        format=used,
        strategy=STRATEGY_OF[used],
        training_rows=training_rows,
        validation_rows=validation_rows,
        rows_sha256=digest,
        quarantined_rows=sum(each.bad_rows for each in (dataset, validation) if each is not None),
        validation_path=None if validation is None else str(Path(validation.path).resolve()),
        validation_sha256=None if validation is None else validation.sha256,
    )


def _quarantine(dataset: DatasetUsed, directory: RunDirectory) -> None:
    """Keep what the run leaves out; where nothing is left out, nothing is written."""
    if dataset.quarantined_rows:
        quarantine(Path(dataset.path), directory.quarantine)
        if dataset.validation_path is not None:
            quarantine(Path(dataset.validation_path), directory.validation_quarantine)


def sweep_abandoned(results: Results) -> None:
    """Remove what a process left that was killed between reserving a run and beginning its journal. For whoever has the
    turn."""
    with storage_errors(results.runs):
        for path in results.runs.glob("run-*"):
            if is_run_id(path.name) and _was_only_reserved(RunDirectory(path)):
                shutil.rmtree(path)
        for reservation in results.weights.glob("*.reserved"):
            run = reservation.read_text().strip()  # empty where the process was killed before it wrote
            if not (is_run_id(run) and results.run(run).root.exists()):
                reservation.unlink()


def _was_only_reserved(directory: RunDirectory) -> bool:
    """Whether nothing is there but what a beginning leaves; runs of the old system have no journal either."""
    if directory.root.is_symlink() or not directory.root.is_dir():
        return False
    beginning = {directory.work, directory.journal, directory.quarantine, directory.validation_quarantine}
    beginning |= marks(directory)
    nothing_else = beginning.issuperset(directory.root.rglob("*"))
    return nothing_else and not (directory.journal.exists() and begins(directory.journal))


def _reserve_run(results: Results, moment: datetime) -> RunDirectory:
    """An id that nobody has: of many that start in one second, each makes another directory."""
    with storage_errors(results.runs):
        for attempt in itertools.count(1):
            directory = results.run(run_id(moment, attempt))
            try:
                directory.root.mkdir()
            except FileExistsError:
                continue
            sync_directory(results.runs)
            break
    return directory


def _free_version(results: Results, wanted: str | None) -> str:
    """The wanted version, or the next.

    Raises:
        ConfigError: the wanted one is taken.
    """
    taken = versions_taken(results)
    version = parse_version(wanted) if wanted else next_version(taken)
    if version in taken:
        raise ConfigError(
            f"Version {format_version(version)} was taken by another run a moment ago.",
            "Choose another, or leave --version away.",
        )
    return format_version(version)
