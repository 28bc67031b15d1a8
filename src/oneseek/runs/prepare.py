"""Base models that a run was accepted with and that are still on the hub: downloaded before anything is planned.

The run exists while they come: whoever watches sees how far they are, and a resumed run goes on with the download. What
is recorded of them when the run is accepted is what the hub says they are, and is compared with what has come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from oneseek.errors import RunError
from oneseek.events import DownloadProgressed, SelectedModel
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.discover import ModelDigests, digests
from oneseek.registry.hub import remote_digests
from oneseek.registry.pull import PullProgress, look_up, pull
from oneseek.runs.recorder import Recorder
from oneseek.runs.unchanged import changes_of, is_awaited

_SECONDS_BETWEEN = 1.0


def digests_of(model: ModelInfo) -> ModelDigests:
    """What the recipe records of a base model, also of one that is not here yet.

    Raises:
        ModelError: a file that it needs is missing or cannot be read; the hub can't tell.
    """
    return remote_digests(model) if model.source == "hub" else digests(Path(model.path))


def prepare_models(run: Recorder, poll: Callable[[], None] = lambda: None) -> None:
    """Download every base model of the run that is not here. Once the run is planned, the hub is asked no more.

    poll: called between the pieces of a download; what it raises breaks the download off.
    Raises:
        ModelError: the hub refuses, can't be reached, or the disk is too small.
        RunError: what has come is not what the run was accepted with.
    """
    for model in run.state.accepted.models:
        if is_awaited(model, run.state):
            _download(model, run, poll)
            if changed := changes_of(model):
                raise RunError(
                    f"{run.state.run_id} can't go on: {'; '.join(changed)}.", "Start a new run with what is there now."
                )


def _download(model: SelectedModel, run: Recorder, poll: Callable[[], None]) -> None:
    """At most one record a second, the first and the last among them."""
    shown = 0.0

    def tell(progress: PullProgress) -> None:
        nonlocal shown
        poll()
        now = time.monotonic()
        if shown and now - shown < _SECONDS_BETWEEN and progress.done < progress.total:
            return
        shown = now
        run.record(
            DownloadProgressed(
                model=model.key,
                done_bytes=progress.done,
                total_bytes=progress.total,
                bytes_per_second=progress.bytes_per_second,
            )
        )

    cache = Path(model.path).parents[2]  # CACHE/models--ORG--NAME/snapshots/COMMIT: where it was accepted for
    pull(look_up(f"{model.hub_id}@{model.revision}", cache), tell)
