"""Base models on the hub: described without downloading them, and every way in which the hub says no."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from oneseek.registry.discover import Discovery, describe, digests, discover
from oneseek.registry.hub import Hub, HubError, describe_remote, is_hub_id, locate, parse_hub_id, remote_digests
from oneseek.registry.pull import look_up, pull
from support.base_models import write_model
from support.hub import StandIn, stand_in

ID = "Org/Alfa-1B"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with stand_in(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "published" / "Alfa-1B", hidden=64, shards=3, vocab=300)


# -- ids -----------------------------------------------------------------------------------------------------------

HOSTILE = [
    "", "alfa", "../x", "../../x", "a/../b", "a/b/c", "/a/b", "a/b/", "a//b", "http://a/b", "https://evil.example/a",
    "file:///etc/passwd", "a\\b", "a/b\0", "a /b", "a/ b", "a/b?x=1", "a/b#c", "a/b%2e%2e", "a/..", "./b", "a/b--c",
    "a/b.git", "a/-b", "a/b-", "å/b", "a/b\n", "a/" + "b" * 97, "a@b/c", "a/b@", "a/b@../x", "a/b@x/../y", "a/b@/x",
    "a/b@x//y", "a/b@x/.", "a/b@x y", "169.254.169.254/latest/meta-data",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=repr)
def test_what_is_no_hub_id_is_refused_before_anything_is_asked(hub: StandIn, text: str) -> None:
    assert not is_hub_id(text)
    with pytest.raises(HubError, match="not the id of a model") as refused:
        describe_remote(text)
    assert refused.value.kind == "not-an-id"
    assert hub.requests == []


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Org/Alfa-1B", ("Org/Alfa-1B", "main")),
        ("a/b", ("a/b", "main")),
        ("meta-llama/Llama-3.1-8B", ("meta-llama/Llama-3.1-8B", "main")),
        ("a/b_c.d@v1.0", ("a/b_c.d", "v1.0")),
        ("a/b@refs/pr/3", ("a/b", "refs/pr/3")),
    ],
)
def test_a_hub_id_has_an_organisation_a_name_and_perhaps_a_revision(text: str, parsed: tuple[str, str]) -> None:
    assert is_hub_id(text)
    assert parse_hub_id(text) == parsed


# -- what the hub tells --------------------------------------------------------------------------------------------


def test_a_model_on_the_hub_is_described_as_if_it_lay_here(hub: StandIn, model: Path, tmp_path: Path) -> None:
    commit = hub.add(ID, model)

    remote = describe_remote(ID)

    here = describe(model)
    assert remote.usable
    assert (remote.key, remote.display_name) == ("alfa-1b", "Alfa-1B")
    assert remote.linear_modules == here.linear_modules
    assert (remote.parameters, remote.dtypes, remote.size_bytes) == (here.parameters, here.dtypes, here.size_bytes)
    assert (remote.chat_template, remote.special_tokens) == (here.chat_template, here.special_tokens)
    assert (remote.source, remote.hub_id, remote.revision) == ("hub", ID, commit)
    assert remote.path == str(tmp_path / "cache" / "models--Org--Alfa-1B" / "snapshots" / commit)
    assert not (tmp_path / "cache").exists()


def test_neither_weights_nor_the_tokenizer_are_downloaded(hub: StandIn, model: Path) -> None:
    hub.add(ID, model)

    remote = describe_remote(ID)

    assert len(hub.bytes_asked) == 3  # the headers of three shards, in one request each
    assert not any("tokenizer.json" in request.path for request in hub.requests)
    assert remote.missing_bytes == sum(file.stat().st_size for file in model.iterdir())


def test_a_header_longer_than_the_first_request_is_read_to_its_end(hub: StandIn, tmp_path: Path) -> None:
    large = write_model(tmp_path / "large", layers=100)
    hub.add(ID, large)

    remote = describe_remote(ID)

    first, second = hub.bytes_asked
    assert first == "bytes=0-65535"
    assert second.startswith("bytes=65536-")
    assert remote.linear_modules == describe(large).linear_modules


def test_a_server_without_ranges_is_heard_only_as_far_as_the_header(hub: StandIn, model: Path) -> None:
    hub.add(ID, model)
    hub.faults.no_ranges = True
    hub.faults.break_after = [70_000] * 3  # whoever listened on would hear the connection break

    assert describe_remote(ID).linear_modules == describe(model).linear_modules


def test_the_tokenizer_is_read_where_only_its_ids_name_the_end_of_a_text(hub: StandIn, model: Path) -> None:
    (model / "tokenizer_config.json").write_text("{}")
    hub.add(ID, model)

    assert describe_remote(ID).special_tokens == {"eos_token": "</s>", "bos_token": "<s>"}


def test_a_revision_is_asked_for_by_name(hub: StandIn, model: Path, tmp_path: Path) -> None:
    hub.add(ID, model)
    other = hub.add(ID, write_model(tmp_path / "other"), revisions=("refs/pr/1",))

    assert describe_remote(f"{ID}@refs/pr/1").revision == other


def test_files_in_folders_and_with_hostile_names_are_left_alone(hub: StandIn, model: Path) -> None:
    (model / "onnx").mkdir()
    (model / "onnx" / "config.json").write_text("{}")
    (model / "..evil.json").write_text("{}")
    hub.add(ID, model)

    with Hub(ID) as connection:
        files = connection.look_up().files

    assert "config.json" in files
    assert not any("/" in name or name.startswith(".") for name in files)


def test_a_model_with_pickle_only_is_described_with_its_problem(hub: StandIn, model: Path) -> None:
    for file in model.glob("*.safetensors*"):
        file.unlink()
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    hub.add(ID, model)

    assert [problem.kind for problem in describe_remote(ID).problems] == ["only-pickle"]


def test_digests_are_known_before_the_weights_are_here(hub: StandIn, model: Path) -> None:
    hub.add(ID, model)

    known = remote_digests(describe_remote(ID))

    assert known == digests(model)
    assert all(begin.startswith("bytes=0-") and begin.endswith("65535") for begin in hub.bytes_asked)


def test_digests_leave_out_weights_that_are_not_downloaded(hub: StandIn, model: Path, tmp_path: Path) -> None:
    (model / "consolidated.safetensors").write_bytes((model / "model-00001-of-00003.safetensors").read_bytes())
    hub.add(ID, model)

    known = remote_digests(describe_remote(ID))

    assert known == digests(pull(look_up(ID, tmp_path / "cache"), lambda _: None))


def test_digests_cover_weights_that_another_program_has_put_there(hub: StandIn, model: Path, tmp_path: Path) -> None:
    (model / "consolidated.safetensors").write_bytes((model / "model-00001-of-00003.safetensors").read_bytes())
    hub.add(ID, model)
    remote = describe_remote(ID)
    Path(remote.path).mkdir(parents=True)
    (Path(remote.path) / "consolidated.safetensors").write_bytes((model / "consolidated.safetensors").read_bytes())

    assert remote_digests(remote) == digests(model)


# -- what it refuses -----------------------------------------------------------------------------------------------


def refusal(hub_id: str = ID) -> HubError:
    with pytest.raises(HubError) as refused:
        describe_remote(hub_id)
    return refused.value


def test_a_gated_model_is_told_with_its_page_and_the_token_to_set(hub: StandIn, model: Path) -> None:
    hub.add(ID, model, opened_by="hf_right")

    error = refusal()

    assert error.kind == "gated"
    assert "licence" in error.problem
    assert f"{hub.address}/{ID}" in error.fix
    assert "set HF_TOKEN" in error.fix


def test_a_token_that_does_not_open_a_gated_model_is_said_not_to(
    hub: StandIn, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(ID, model, opened_by="hf_right")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")

    error = refusal()

    assert error.kind == "gated"
    assert "this one does not open it" in error.fix


def test_the_right_token_opens_a_gated_model(hub: StandIn, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(ID, model, opened_by="hf_right")
    monkeypatch.setenv("HF_TOKEN", "hf_right")

    assert describe_remote(ID).usable


def test_a_model_that_the_hub_does_not_show_may_be_private(hub: StandIn) -> None:
    error = refusal()

    assert error.kind == "missing"
    assert "does not exist" in error.problem
    assert "HF_TOKEN" in error.fix


def test_a_missing_revision_is_told_from_a_missing_model(hub: StandIn, model: Path) -> None:
    hub.add(ID, model)

    error = refusal(f"{ID}@v9")

    assert (error.kind, "'v9'" in error.problem) == ("missing", True)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_mode_asks_nobody_and_says_where_to_put_the_model(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")

    error = refusal()

    assert error.kind == "offline"
    assert f"oneseek models pull {ID}" in error.fix
    assert str(tmp_path / "cache" / "models--Org--Alfa-1B") in error.fix
    assert hub.requests == []


def test_a_hub_that_nobody_answers_at_is_offline(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")

        error = refusal()

    assert (error.kind, "can't be reached" in error.problem) == ("offline", True)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, "missing"), (401, "gated"), (403, "gated"), (429, "busy"), (503, "busy"), (400, "broken")],
)
def test_every_status_has_its_kind(hub: StandIn, model: Path, status: int, kind: str) -> None:
    hub.add(ID, model)
    hub.faults.statuses[f"/api/models/{ID}/revision/main"] = status

    error = refusal()

    assert error.kind == kind
    assert error.fix


def test_a_connection_that_breaks_in_a_header_is_told(hub: StandIn, model: Path) -> None:
    hub.add(ID, model)
    hub.faults.break_after = [10, 10, 10]

    assert refusal().kind == "broken"


def test_a_hub_that_says_nothing_is_not_waited_for_without_end(
    hub: StandIn, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(ID, model)
    hub.faults.silence = 0.6
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")

    error = refusal()

    assert (error.kind, "stopped waiting" in error.problem) == ("broken", True)


@pytest.mark.parametrize(
    "answer",
    [b"<html>", b"{}", b'{"sha": "../x", "siblings": []}', b"[" * 100_000, b"\xff"],
    ids=["html", "empty", "hostile-commit", "nested", "not-utf8"],
)
def test_an_answer_that_is_none_of_a_hub_is_told(hub: StandIn, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr(Hub, "_get", lambda *_, **__: answer)

    assert refusal().kind == "broken"


@pytest.mark.parametrize("endpoint", ["ftp://x", "huggingface.co", "https://", "https://user:secret@x"])
def test_an_endpoint_that_is_no_address_is_refused_without_repeating_it(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)

    error = refusal()

    assert "HF_ENDPOINT" in error.problem
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    "place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[::1"], ids=["file", "ftp", "broken"]
)
def test_a_redirect_to_what_is_no_web_address_is_not_followed(hub: StandIn, model: Path, place: str) -> None:
    hub.add(ID, model)
    hub.faults.move_to = place

    assert refusal().kind == "broken"


def test_redirects_without_end_are_not_followed(hub: StandIn, model: Path) -> None:
    commit = hub.add(ID, model)
    hub.faults.move_to = f"/{ID}/resolve/{commit}/model-00001-of-00003.safetensors"

    assert refusal().kind == "broken"
    assert len(hub.requests) < 30


def test_no_redirect_leads_away_from_https(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    with Hub(ID) as connection, pytest.raises(HubError, match="without https"):
        connection._stay_encrypted(httpx2.Request("GET", "http://169.254.169.254/latest/meta-data"))


def foreign_errors(base: type[httpx2.HTTPError] = httpx2.HTTPError) -> Iterator[type[httpx2.HTTPError]]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("httpx2"):
            yield kind
            yield from foreign_errors(kind)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind.__name__) for kind in sorted(foreign_errors(), key=lambda kind: kind.__name__)]
)
def test_every_error_of_the_http_library_becomes_ours(hub: StandIn, kind: type[httpx2.HTTPError]) -> None:
    with Hub(ID) as connection:
        error = connection._trouble(kind.__new__(kind, "why"))

    offline = issubclass(kind, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError)
    assert error.kind == ("offline" if offline else "broken")


# -- secrets -------------------------------------------------------------------------------------------------------


def test_the_token_goes_to_the_hub_alone_and_is_written_nowhere(
    hub: StandIn, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hf_OnlyForTheHub"
    hub.add(ID, model, opened_by=secret)
    monkeypatch.setenv("HF_TOKEN", secret)

    described = describe_remote(ID)
    path = pull(look_up(ID, tmp_path / "cache"), lambda _: None)

    tokens = {request.host: request.token for request in hub.requests}
    assert tokens == {hub.address: secret, hub.far_address: ""}
    written = b"".join(file.read_bytes() for file in (tmp_path / "cache").rglob("*") if file.is_file())
    assert path.is_dir()
    assert secret.encode() not in written
    assert secret not in repr(described)


def test_no_error_shows_the_token_or_a_signed_address(
    hub: StandIn, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(ID, model)
    monkeypatch.setenv("HF_TOKEN", "hf_secret_one")
    hub.faults.break_after = [10, 10, 10]

    error = refusal()

    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__) + str(error.args)
    assert "hf_secret_one" not in shown
    assert "signature" not in shown


def test_a_saved_token_that_cannot_be_read_is_told(
    hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path))

    assert "Set HF_TOKEN" in refusal().fix


# -- which model a name means --------------------------------------------------------------------------------------


def located(name: str, models_dir: Path, cache: Path) -> tuple[str, str | None]:
    info = locate(name, discover(models_dir, cache), cache)
    return info.source, info.hub_id


def test_a_hub_id_means_a_directory_then_the_cache_then_the_hub(hub: StandIn, model: Path, tmp_path: Path) -> None:
    hub.add(ID, model)
    hub.add("Other/Alfa-1B", model)
    cache, models_dir = tmp_path / "cache", tmp_path / "models"

    on_the_hub = located(ID, models_dir, cache)
    pull(look_up(ID, cache), lambda _: None)
    cached = located(ID, models_dir, cache)
    of_others = located("Other/Alfa-1B", models_dir, cache)
    write_model(models_dir / "alfa-1b")

    assert on_the_hub == ("hub", ID)
    assert cached == ("cache", ID)
    assert of_others == ("hub", "Other/Alfa-1B")
    assert located(ID, models_dir, cache) == ("directory", None)
    assert located(f"{ID}@main", models_dir, cache) == ("cache", ID)
    assert located("alfa-1b", models_dir, cache) == ("directory", None)


def test_a_model_that_is_partly_in_the_cache_is_described_by_the_hub(hub: StandIn, model: Path, tmp_path: Path) -> None:
    hub.add(ID, model)
    path = pull(look_up(ID, tmp_path / "cache"), lambda _: None)
    lost = (path / "model-00002-of-00003.safetensors").resolve()
    size = lost.stat().st_size
    lost.unlink()

    info = locate(ID, Discovery(models=(), collisions={}), tmp_path / "cache")

    assert (info.source, info.missing_bytes, info.usable) == ("hub", size, True)


# -- cost ----------------------------------------------------------------------------------------------------------


def test_ids_are_told_without_importing_any_http_library() -> None:
    code = (
        "import sys\n"
        "from oneseek.registry.hub import is_hub_id\n"
        "from oneseek.registry.pull import look_up\n"
        "assert is_hub_id('a/b')\n"
        "print([name for name in ('httpx2', 'huggingface_hub', 'torch') if name in sys.modules])\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert json.loads(told.stdout.replace("'", '"')) == []


# -- what a person may have set wrongly ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("HF_TOKEN", "\u043a\u043b\u044e\u0447", "characters that no token has"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "abc", "HF_HUB_DOWNLOAD_TIMEOUT is 'abc'"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "-1", "HF_HUB_DOWNLOAD_TIMEOUT is '-1'"),
        ("HF_ENDPOINT", "http://[::1", "HF_ENDPOINT is not the address of a hub"),
        ("HF_ENDPOINT", "http://127.0.0.1:99999", "HF_ENDPOINT is not the address of a hub"),
    ],
)
def test_a_variable_of_the_hub_that_cannot_be_is_refused_by_its_name(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(HubError) as refused:
        describe_remote("town/alfa")

    assert says in refused.value.problem
    assert refused.value.fix


def test_a_ref_that_is_no_text_hides_no_other_model(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "alfa", vocab=300)
    broken = tmp_path / "cache" / "models--town--beta"
    (broken / "refs").mkdir(parents=True)
    (broken / "refs" / "main").write_bytes(b"\xff\xfe\x00")

    found = discover(tmp_path / "models", tmp_path / "cache")

    assert [info.key for info in found.models] == ["alfa"]
