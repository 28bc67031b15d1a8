"""Going on with a run that was stopped, interrupted, or failed."""

from __future__ import annotations

import os

from oneseek.errors import RunError
from oneseek.events import RunResumed
from oneseek.files.layout import RunDirectory
from oneseek.runs import stopping
from oneseek.runs.find import engine_of
from oneseek.runs.recorder import Recorder, Watch, nobody
from oneseek.runs.unchanged import changes


def resume(directory: RunDirectory, watch: Watch = nobody) -> Recorder:
    """Take up a run where its last committed epoch left it. Its configuration is the one in its journal.

    Raises:
        RunError: it is complete, running, trained outside, or its dataset or a base model is not what it was.
        JournalDamaged: its journal is not what was written.
    """
    run = Recorder.reopen(directory, watch)
    try:
        engine_of(run.state, "resumed")
        stopping.forget(directory)
        if not run.state.over:
            if changed := changes(run.state):
                raise RunError(
                    f"{run.state.run_id} can't be resumed: {'; '.join(changed)}.",
                    "Put back what it was started with, or start a new run.",
                )
            run.record(RunResumed(epoch=run.state.epochs_done))
    except BaseException:
        run.close()
        raise
    return run


def how_to_go_on(directory: RunDirectory) -> str:
    """The command that takes a run up again, wherever its directory is."""
    return f"Go on with: oneseek resume {os.path.relpath(directory.root)}"
