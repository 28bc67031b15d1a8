"""Downloads: what is fetched, what a break costs, what is found damaged, and a run that waits for its base models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from huggingface_hub import hf_hub_download, try_to_load_from_cache

from oneseek import runs
from oneseek.cli import main
from oneseek.errors import ModelError, RunError, StorageError
from oneseek.events import DownloadProgressed, RunAccepted, RunPlanned
from oneseek.events.state import apply
from oneseek.events.wire import wire
from oneseek.files.durable import LinksUnsupportedError
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.journal.file import read
from oneseek.names import size
from oneseek.registry import pull as pulling
from oneseek.registry.discover import digests, discover, is_whole
from oneseek.registry.hub import HubError, describe_remote
from oneseek.registry.pull import PullProgress, look_up, pull
from oneseek.runs.prepare import digests_of, prepare_models
from oneseek.runs.recorder import Recorder, nobody
from oneseek.runs.unchanged import changes
from support.base_models import write_model
from support.histories import accepted, planned
from support.hub import StandIn, stand_in
from support.runs import Town

ID = "Org/Alfa-1B"
FIRST = "model-00001-of-00002.safetensors"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(pulling, "_PAUSE_SECONDS", 0.0)
    with stand_in(monkeypatch, cache) as hub:
        yield hub


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "published" / "Alfa-1B", hidden=64, shards=2, vocab=300)


def pulled(cache: Path, hub_id: str = ID, tell: Callable[[PullProgress], None] = lambda _: None) -> Path:
    return pull(look_up(hub_id, cache), tell)


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def fetched(hub: StandIn) -> list[str]:
    """The ranges of the large files that were asked for since the last time."""
    asked = hub.bytes_asked
    hub.requests.clear()
    return asked


# -- what is fetched -----------------------------------------------------------------------------------------------


def test_a_pulled_model_is_whole_and_listed(hub: StandIn, model: Path, cache: Path, tmp_path: Path) -> None:
    commit = hub.add(ID, model)

    path = pulled(cache)

    (info,) = discover(tmp_path / "models", cache).models
    assert contents(path) == contents(model)
    assert (info.key, info.display_name, info.path) == ("alfa-1b", "Alfa-1B", str(path))
    assert (info.source, info.hub_id, info.revision, info.missing_bytes) == ("cache", ID, commit, 0)
    assert info.usable
    assert digests(path) == digests(model)


def test_only_what_training_needs_is_fetched(hub: StandIn, model: Path, cache: Path) -> None:
    for name in ("pytorch_model.bin", "model.gguf", "model.onnx", "tf_model.h5", "consolidated.safetensors", "a.png"):
        (model / name).write_bytes(b"something large")
    (model / "original").mkdir()
    (model / "original" / "model.safetensors").write_bytes(b"something large")
    hub.add(ID, model)

    path = pulled(cache)

    assert sorted(file.name for file in path.iterdir()) == [
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_the_cache_is_one_that_the_hubs_own_library_reads(hub: StandIn, model: Path, cache: Path) -> None:
    hub.add(ID, model)

    path = pulled(cache)

    assert try_to_load_from_cache(ID, FIRST, cache_dir=cache) == str(path / FIRST)
    hub.requests.clear()
    assert hf_hub_download(ID, FIRST, cache_dir=cache, endpoint=hub.address) == str(path / FIRST)
    assert fetched(hub) == []


def test_what_the_hubs_own_library_has_fetched_is_listed_and_not_fetched_again(
    hub: StandIn, model: Path, cache: Path, tmp_path: Path
) -> None:
    hub.add(ID, model)
    for file in model.iterdir():
        hf_hub_download(ID, file.name, cache_dir=cache, endpoint=hub.address)
    hub.requests.clear()

    (info,) = discover(tmp_path / "models", cache).models
    path = pulled(cache)

    assert info.usable
    assert info.path == str(path)
    assert fetched(hub) == []


def test_progress_only_grows_and_ends_at_everything(hub: StandIn, model: Path, cache: Path) -> None:
    hub.add(ID, model)
    told: list[PullProgress] = []

    pulled(cache, tell=told.append)

    total = sum(file.stat().st_size for file in model.iterdir())
    assert all(before.done <= after.done for before, after in pairwise(told))
    assert (told[-1].done, told[-1].total) == (total, total)


def test_a_rate_is_told_only_after_a_second_of_downloading(
    hub: StandIn, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(ID, model)
    early: list[PullProgress] = []
    late: list[PullProgress] = []

    pulled(cache, tell=early.append)
    monkeypatch.setattr(pulling, "_RATE_AFTER_SECONDS", 0.0)
    pulled(cache.with_name("another"), tell=late.append)

    assert {progress.bytes_per_second for progress in early} == {0.0}
    assert late[-1].bytes_per_second > 0
    assert late[-1].seconds_left == 0


def test_nothing_is_told_twice(hub: StandIn, model: Path, cache: Path) -> None:
    hub.add(ID, model)
    told: list[PullProgress] = []

    pulled(cache, tell=told.append)

    assert len({progress.done for progress in told}) == len(told)


def test_time_left_follows_from_the_rate() -> None:
    assert PullProgress(done=200, total=1000, bytes_per_second=100.0).seconds_left == 8
    assert PullProgress(done=0, total=1000, bytes_per_second=0.0).seconds_left is None


def test_a_newer_commit_is_fetched_and_the_older_one_stays(
    hub: StandIn, model: Path, cache: Path, tmp_path: Path
) -> None:
    hub.add(ID, model)
    older = pulled(cache)
    (model / "generation_config.json").write_text("{}")
    commit = hub.add(ID, model)
    hub.requests.clear()

    newer = pulled(cache)

    (info,) = discover(tmp_path / "models", cache).models
    assert info.revision == commit == newer.name
    assert fetched(hub) == []  # the weights are the same, and here
    assert is_whole(older)


def test_a_pull_of_a_newer_commit_that_breaks_off_leaves_the_older_one_listed(
    hub: StandIn, model: Path, cache: Path, tmp_path: Path
) -> None:
    older = hub.add(ID, model)
    pulled(cache)
    hub.add(ID, write_model(tmp_path / "new", hidden=64, shards=2, vocab=300, seed=1))
    hub.faults.break_after = [0] * 20
    with pytest.raises(HubError):
        pulled(cache)

    (info,) = discover(tmp_path / "models", cache).models

    assert (info.revision, info.usable) == (older, True)


def test_a_revision_is_remembered_by_its_name(hub: StandIn, model: Path, cache: Path) -> None:
    commit = hub.add(ID, model, revisions=("refs/pr/1",))

    pulled(cache, f"{ID}@refs/pr/1")

    assert (cache / "models--Org--Alfa-1B" / "refs" / "refs" / "pr" / "1").read_text() == commit


# -- what breaks ---------------------------------------------------------------------------------------------------


def test_a_download_goes_on_where_the_connection_broke(hub: StandIn, model: Path, cache: Path) -> None:
    hub.add(ID, model)
    hub.faults.break_after = [100, 1000, 30_000]

    path = pulled(cache)

    assert contents(path) == contents(model)
    assert fetched(hub)[:3] == ["bytes=0-", "bytes=100-", "bytes=1100-"]


def test_a_download_that_was_given_up_goes_on_with_the_next_pull(
    hub: StandIn, model: Path, cache: Path, tmp_path: Path
) -> None:
    hub.add(ID, model)
    size = (model / "tokenizer.json").stat().st_size
    hub.faults.break_after = [size, 40_000] + [0] * 10
    with pytest.raises(HubError, match="broke off") as broken:
        pulled(cache)
    hub.faults.break_after.clear()
    hub.requests.clear()
    left = look_up(ID, cache).missing_bytes
    (listed,) = discover(tmp_path / "models", cache).models

    path = pulled(cache)

    assert broken.value.kind == "broken"
    assert left == sum(file.stat().st_size for file in model.glob("*.safetensors")) - 40_000
    assert listed.problems[0].fix == f"Download what is missing: oneseek models pull {ID}"
    assert fetched(hub)[0] == "bytes=40000-"
    assert contents(path) == contents(model)


def test_a_server_without_ranges_is_listened_to_from_the_start_again(hub: StandIn, model: Path, cache: Path) -> None:
    hub.add(ID, model)
    hub.faults.no_ranges = True
    hub.faults.break_after = [100, 50]

    assert contents(pulled(cache)) == contents(model)


def test_a_server_that_sends_too_much_is_not_heard_to_its_end(hub: StandIn, model: Path, cache: Path) -> None:
    hub.add(ID, model)
    hub.faults.send_more = 20_000_000
    told: list[PullProgress] = []

    with pytest.raises(HubError, match="arrived twice with other bytes"):
        pulled(cache, tell=told.append)

    assert told[-1].done < told[-1].total + 1_000_000


def test_a_byte_flipped_on_the_way_is_found_and_the_file_fetched_again(hub: StandIn, model: Path, cache: Path) -> None:
    hub.add(ID, model)
    hub.faults.flips = 1

    assert contents(pulled(cache)) == contents(model)
    assert len(fetched(hub)) == 4  # tokenizer.json twice, two shards


def test_a_file_that_never_arrives_whole_is_named_and_not_kept(hub: StandIn, model: Path, cache: Path) -> None:
    hub.add(ID, model)
    hub.faults.flips = 100

    with pytest.raises(HubError, match=r"tokenizer\.json has arrived twice with other bytes"):
        pulled(cache)

    assert not list(cache.rglob("*.incomplete"))
    assert not list(cache.glob("models--*/snapshots/*/tokenizer.json"))


@pytest.mark.parametrize("name", [FIRST, "config.json"])
def test_a_byte_flipped_in_the_cache_is_found_by_the_next_pull(
    hub: StandIn, model: Path, cache: Path, name: str
) -> None:
    hub.add(ID, model)
    blob = (pulled(cache) / name).resolve()
    damaged = bytearray(blob.read_bytes())
    damaged[-1] ^= 1
    blob.write_bytes(damaged)

    assert contents(pulled(cache)) == contents(model)


def test_partial_bytes_that_are_not_the_files_are_thrown_away(hub: StandIn, model: Path, cache: Path) -> None:
    hub.add(ID, model)
    digest = (pulled(cache) / FIRST).resolve().name
    blob = cache / "models--Org--Alfa-1B" / "blobs" / digest
    blob.unlink()
    blob.with_name(f"{digest}.incomplete").write_bytes(b"?" * 1000)

    assert contents(pulled(cache)) == contents(model)


def test_without_links_the_file_itself_lies_in_the_snapshot(
    hub: StandIn, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(link: Path, target: str) -> None:
        raise LinksUnsupportedError(str(link))

    hub.add(ID, model)
    monkeypatch.setattr(pulling, "point", no_links)

    first = contents(pulled(cache))
    hub.requests.clear()
    second = contents(pulled(cache))

    assert first == second == contents(model)
    assert fetched(hub) == []


def test_ctrl_c_leaves_a_download_that_can_go_on(hub: StandIn, model: Path, cache: Path) -> None:
    hub.add(ID, model)
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))

    def interrupt(progress: PullProgress) -> None:
        if progress.total - progress.done < weights:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pulled(cache, tell=interrupt)
    (partial,) = cache.rglob("*.incomplete")
    have = partial.stat().st_size
    hub.requests.clear()

    assert have > 0
    assert contents(pulled(cache)) == contents(model)
    assert fetched(hub)[0] in (f"bytes={have}-", "bytes=0-")  # whole already, or gone on with


def test_a_cache_that_cannot_be_written_is_a_storage_error(
    hub: StandIn, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(ID, model)
    wanted = look_up(ID, cache)
    cache.write_text("a file")

    with pytest.raises(StorageError, match="could not be written"):
        pull(wanted, lambda _: None)


# -- before it starts ----------------------------------------------------------------------------------------------

Usage = namedtuple("Usage", "total used free")


def test_too_little_disk_is_refused_with_the_numbers(
    hub: StandIn, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(ID, model)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 1000))

    with pytest.raises(HubError, match=r"takes \d+\.\d kB more.*; 1\.0 kB are free.*HF_HUB_CACHE") as refused:
        look_up(ID, cache)

    assert refused.value.kind == "disk"
    assert not cache.exists()


def test_downloads_before_this_one_take_their_share_of_the_disk(
    hub: StandIn, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(ID, model)
    size = look_up(ID, cache).missing_bytes
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 3 * size))

    assert look_up(ID, cache, reserved_bytes=2 * size).warning
    with pytest.raises(HubError, match="more on the disk"):
        look_up(ID, cache, reserved_bytes=2 * size + 1)


def test_a_large_download_is_warned_of(hub: StandIn, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(ID, model)
    small = look_up(ID, cache)
    monkeypatch.setattr(pulling, "LARGE_BYTES", 1000)

    large = look_up(ID, cache)

    assert small.warning is None
    assert large.warning is not None
    assert "is large" in large.warning


def test_a_model_without_safetensors_is_not_downloaded(hub: StandIn, model: Path, cache: Path) -> None:
    for file in model.glob("*.safetensors*"):
        file.unlink()
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    hub.add(ID, model)

    with pytest.raises(HubError, match="run code") as refused:
        look_up(ID, cache)

    assert refused.value.kind == "no-safetensors"


# -- a run that waits for its base models --------------------------------------------------------------------------


@pytest.fixture
def waiting(hub: StandIn, model: Path, tmp_path: Path) -> Iterator[Recorder]:
    """A run that was accepted with a model that is on the hub only."""
    hub.add(ID, model)
    info = describe_remote(ID)
    known = digests_of(info)
    event = accepted("alfa-1b")
    selected = msgspec.structs.replace(
        event.models[0],
        path=info.path,
        hub_id=info.hub_id,
        revision=info.revision,
        weights_sha256=known.weights_sha256,
        config_sha256=known.config_sha256,
        tokenizer_sha256=known.tokenizer_sha256,
        template_sha256=known.template_sha256,
    )
    (tmp_path / "rows.jsonl").write_text("{}")
    directory = Results(tmp_path / "models").run(event.run_id)
    directory.root.mkdir(parents=True)
    with Recorder.begin(directory, msgspec.structs.replace(event, models=(selected,)), nobody) as run:
        hub.requests.clear()
        yield run


def recorded(directory: RunDirectory) -> list[Any]:
    return [record.event for record in read(directory.journal).records]


def test_a_run_downloads_its_models_and_records_how_far_they_are(waiting: Recorder, model: Path) -> None:
    prepare_models(waiting)

    first, *downloads = recorded(waiting.directory)
    total = sum(file.stat().st_size for file in model.iterdir())
    assert isinstance(first, RunAccepted)
    assert all(isinstance(event, DownloadProgressed) and event.model == "alfa-1b" for event in downloads)
    assert downloads[-1].done_bytes == downloads[-1].total_bytes == total
    assert len(downloads) <= 3  # one a second at most, and the last
    assert waiting.state.status == "preparing"
    assert digests(Path(waiting.state.accepted.models[0].path)) == digests(model)


def test_what_is_here_is_not_asked_of_the_hub_again(waiting: Recorder, hub: StandIn) -> None:
    prepare_models(waiting)
    hub.requests.clear()

    prepare_models(waiting)

    assert hub.requests == []


def test_a_planned_run_asks_the_hub_no_more(waiting: Recorder, hub: StandIn) -> None:
    waiting.record(planned("alfa-1b"))

    prepare_models(waiting)

    assert hub.requests == []
    assert "is gone" in " ".join(changes(waiting.state))


def test_an_interrupted_download_goes_on_when_the_run_is_taken_up_again(
    waiting: Recorder, hub: StandIn, model: Path
) -> None:
    class StopItError(Exception):
        pass

    asked = 0

    def poll() -> None:
        nonlocal asked
        asked += 1
        if asked == 8:
            raise StopItError

    with pytest.raises(StopItError):
        prepare_models(waiting, poll)
    unchanged = [change for change in changes(waiting.state) if "base model" in change]

    prepare_models(waiting)

    assert unchanged == []
    assert digests(Path(waiting.state.accepted.models[0].path)) == digests(model)


def test_a_model_that_came_otherwise_than_it_was_accepted_is_refused(waiting: Recorder) -> None:
    event = waiting.state.accepted
    other = msgspec.structs.replace(event.models[0], config_sha256="0" * 64)
    waiting.state = msgspec.structs.replace(waiting.state, accepted=msgspec.structs.replace(event, models=(other,)))

    with pytest.raises(RunError, match=r"the config\.json changed"):
        prepare_models(waiting)


def test_a_model_that_vanished_from_the_hub_ends_the_preparation_with_what_to_do(
    waiting: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(ModelError, match="oneseek models pull"):
        prepare_models(waiting)


def test_a_run_of_a_model_on_the_hub_is_accepted_downloads_and_trains(
    hub: StandIn, model: Path, cache: Path, town: Town
) -> None:
    commit = hub.add("Org/Hub-1B", model)
    config, home = (
        town.config("Org/Hub-1B", "alfa-1b", training__num_epochs=1),
        Home(town.home.root, town.home.models, cache),
    )

    with runs.submit(config, home, engine="scripted") as run:
        before = cache.exists()
        runs.train(run)

    first, second, *_ = kinds = [type(event).__name__ for event in recorded(run.directory)]
    selected = run.state.accepted.models[0]
    assert not before
    assert (first, second) == ("RunAccepted", "DownloadProgressed")
    assert kinds.index("RunPlanned") > max(n for n, kind in enumerate(kinds) if kind == "DownloadProgressed")
    assert run.state.status == "completed"
    assert (selected.hub_id, selected.revision) == ("Org/Hub-1B", commit)
    assert selected.weights_sha256 == digests(Path(selected.path)).weights_sha256


def test_downloads_are_on_the_wire_and_in_the_state_until_the_run_is_planned(waiting: Recorder) -> None:
    event = DownloadProgressed(model="alfa-1b", done_bytes=25, total_bytes=100, bytes_per_second=5.0)

    state = apply(waiting.state, event)

    assert state.downloads == {"alfa-1b": event}
    assert isinstance(plan := planned("alfa-1b"), RunPlanned)
    assert apply(state, plan).downloads == {}
    assert wire(2, "now", event, state) == {
        "type": "download_progress", "seq": 2, "run_id": "run-20251122-143025", "timestamp": "now", "model": "alfa-1b",
        "done_bytes": 25, "total_bytes": 100, "bytes_per_second": 5.0, "seconds_left": 15.0,
    }  # fmt: skip


# -- the command line ----------------------------------------------------------------------------------------------


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def say(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `oneseek models …` in an empty home."""
    monkeypatch.setenv("ONESEEK_HOME", str(tmp_path / "home"))

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["oneseek", "models", *arguments])
        monkeypatch.setattr("oneseek.cli.output.PIPE_WIDTH", 300)
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfdbinary.readouterr()
        return Said(code, out.decode(), err.decode())

    return run


def test_pull_says_what_it_fetches_and_where_it_is(hub: StandIn, model: Path, cache: Path, say: Any) -> None:
    hub.add(ID, model)

    said = say("pull", ID)

    total = sum(file.stat().st_size for file in model.iterdir())
    (found,) = discover(cache.with_name("none"), cache).models
    assert said.code == 0
    assert said.out.splitlines()[-2:] == [f"{ID}: {(all_of := size(total))} / {all_of}", f"✓ {ID}: {found.path}"]


def test_pull_tells_programs_line_by_line(hub: StandIn, model: Path, say: Any) -> None:
    commit = hub.add(ID, model)

    *progress, last = [json.loads(line) for line in say("pull", ID, "--json").out.splitlines()]

    total = sum(file.stat().st_size for file in model.iterdir())
    assert {line["type"] for line in progress} == {"download_progress"}
    assert [(line["done"], line["total"]) for line in progress].count((total, total)) == 1
    assert (last["type"], last["model"], last["revision"]) == ("pulled", ID, commit)
    assert is_whole(Path(last["path"]))


def test_pull_of_a_name_that_nothing_here_has_says_how_the_hub_writes_names(say: Any, hub: StandIn) -> None:
    said = say("pull", "mistral-7b")

    assert said.code == 2
    assert "'mistral-7b'" in said.err
    assert "ORG/NAME" in said.err
    assert hub.requests == []


def test_pull_of_a_gated_model_says_what_to_do(hub: StandIn, model: Path, say: Any) -> None:
    hub.add(ID, model, opened_by="hf_right")

    said = say("pull", ID)

    assert said.code == 2
    assert "is gated" in said.err
    assert "HF_TOKEN" in said.err


def test_pull_asks_for_all_models_before_it_fetches_one(hub: StandIn, model: Path, cache: Path, say: Any) -> None:
    hub.add(ID, model)

    said = say("pull", ID, "Org/missing")

    assert said.code == 2
    assert "Org/missing" in said.err
    assert not cache.exists()


def test_pull_knows_a_model_of_the_cache_by_its_key(hub: StandIn, model: Path, cache: Path, say: Any) -> None:
    hub.add(ID, model)
    (pulled(cache) / FIRST).resolve().unlink()

    listed = say("list").out
    said = say("pull", "alfa-1b")

    assert "⬇ " in listed
    assert f"oneseek models pull {ID}" not in listed or "missing" in listed
    assert said.code == 0
    assert "✓ cached" in say("list").out


def test_list_says_which_models_of_the_cache_are_passed_over(
    hub: StandIn, model: Path, cache: Path, tmp_path: Path, say: Any
) -> None:
    hub.add(ID, model)
    path = pulled(cache)
    write_model(tmp_path / "home" / "models" / "alfa-1b")

    said = say("list")
    (told,) = json.loads(say("list", "--json").out)["models"]

    assert "passed over" in said.out
    assert (told["source"], told["hub_id"], told["shadows"]) == ("directory", None, [str(path)])


def test_show_describes_a_model_on_the_hub(hub: StandIn, model: Path, say: Any) -> None:
    commit = hub.add(ID, model)

    told = json.loads(say("show", ID, "--json").out)

    assert (told["source"], told["hub_id"], told["revision"], told["usable"]) == ("hub", ID, commit, True)
    assert told["missing_bytes"] > 0


def test_show_of_a_model_on_the_hub_says_what_it_takes_and_names_no_place(
    hub: StandIn, model: Path, cache: Path, say: Any
) -> None:
    hub.add(ID, model)

    said = say("show", ID).out

    assert f"  here          ⬇ {size(sum(file.stat().st_size for file in model.iterdir()))}\n" in said
    assert str(cache) not in said
    say("pull", ID)
    assert "  here          ✓ cached\n" in (said := say("show", ID).out)
    assert str(cache) in said


def test_a_model_without_safetensors_on_the_hub_leads_nobody_in_a_circle(
    hub: StandIn, model: Path, say: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in model.glob("*.safetensors*"):
        file.unlink()
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    hub.add(ID, model)
    monkeypatch.setattr("oneseek.cli.models.convert_model", lambda _: pytest.fail("nothing is here to convert"))

    said = {command: say(command, ID) for command in ("show", "pull", "convert")}

    assert [told.code for told in said.values()] == [0, 2, 2]
    assert "parameters    not known\n" in said["show"].out
    for told in said.values():
        assert f"hf download {ID}" in " ".join((told.out + told.err).split())


def test_convert_of_a_model_with_safetensors_says_that_there_is_nothing_to_do(
    hub: StandIn, model: Path, cache: Path, say: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(ID, model)
    monkeypatch.setattr("oneseek.cli.models.convert_model", lambda _: pytest.fail("there is nothing to convert"))

    away = say("convert", ID)
    pulled(cache)
    here = say("convert", "alfa-1b")

    assert [away.code, here.code] == [2, 2]
    assert all("has safetensors already" in said.err for said in (away, here))


def test_ctrl_c_in_a_pull_says_that_it_can_go_on(hub: StandIn, model: Path, cache: Path, tmp_path: Path) -> None:
    hub.add(ID, model)
    hub.faults.silence = 0.3
    command = [sys.executable, "-m", "oneseek", "models", "pull", ID, "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(2)
        said = process.stderr.read().decode()
        code = process.wait()

    assert code == 130
    assert "goes on from here" in said
