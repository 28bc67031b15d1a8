"""Going on with a run that was stopped, interrupted, or failed."""

from __future__ import annotations

from pathlib import Path

from oneseek.errors import RunError
from oneseek.events import RunResumed
from oneseek.files.durable import sha256_file
from oneseek.files.layout import RunDirectory
from oneseek.registry.discover import digests
from oneseek.runs import stopping
from oneseek.runs.recorder import Recorder, Watch, nobody


def resume(directory: RunDirectory, watch: Watch = nobody) -> Recorder:
    """Take up a run where its last committed epoch left it. Its configuration is the one in its journal.

    Raises:
        RunError: it is complete, running, or its dataset or a base model is not what it was.
        JournalDamaged: its journal is not what was written.
    """
    run = Recorder.reopen(directory, watch)
    try:
        stopping.forget(directory)
        if not run.state.over:
            _refuse_if_changed(run)
            run.record(RunResumed(epoch=run.state.epochs_done))
    except BaseException:
        run.close()
        raise
    return run


def _refuse_if_changed(run: Recorder) -> None:
    """Other data or another base model would give weights that no recipe describes."""
    dataset = run.state.accepted.dataset
    changed = []
    if not Path(dataset.path).is_file():
        changed.append(f"the dataset {dataset.path} is gone")
    elif sha256_file(Path(dataset.path)) != dataset.sha256:
        changed.append(f"the dataset {dataset.path} has changed")
    for model in run.state.accepted.models:
        if model.key not in run.state.live:
            continue
        if not Path(model.path).is_dir():
            changed.append(f"the base model {model.path} is gone")
            continue
        found = digests(Path(model.path))
        parts = ("weights_sha256", "config_sha256", "tokenizer_sha256", "template_sha256")
        changed += [
            f"the {part.removesuffix('_sha256')} of the base model {model.key} has changed"
            for part in parts
            if getattr(found, part) != getattr(model, part)
        ]
    if changed:
        raise RunError(
            f"{run.state.run_id} can't be resumed: {'; '.join(changed)}.",
            "Put back what it was started with, or start a new run.",
        )
