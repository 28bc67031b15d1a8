"""What a server logs: JSON lines that say no secret and command no terminal."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.server.log import Lines

TOKEN = "osk_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
ENVIRONMENT = {
    "HF_TOKEN": "planted hugging",
    "OTHER_TOKEN": "planted hugging face",
    "LEDGER_TOKEN": 'planted"ledger\\',
    "ONESEEK_TOKEN": "short",
    "AWS_SECRET_ACCESS_KEY": "planted-key",
    "LEDGER_PRIVATE_KEY_PATH": "/srv/keys/run-signer.pem",
    "HOME": "/srv/oneseek",
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def line(event: str, /, *arguments: Any, exc_info: Any = None, **extra: Any) -> str:
    record = logging.makeLogRecord(
        {"name": "oneseek.server", "levelname": "INFO", "msg": event, "args": arguments, "exc_info": exc_info} | extra
    )
    return Lines(ENVIRONMENT).format(record)


def test_a_line_is_one_object_with_time_level_logger_event_and_the_fields_beside() -> None:
    said = line("run %s", "begun", created=1763821825.1239, run_id="run-20251122-143025", status=202)

    assert json.loads(said) == {
        "time": "2025-11-22T14:30:25.123Z",
        "level": "info",
        "logger": "oneseek.server",
        "event": "run begun",
        "run_id": "run-20251122-143025",
        "status": 202,
    }


def test_a_traceback_is_in_the_same_line() -> None:
    try:
        raise ValueError(f"no number: {TOKEN}")
    except ValueError:
        said = line("unforeseen", exc_info=sys.exc_info())

    assert "Traceback" in json.loads(said)["error"]
    assert "ValueError: no number" in json.loads(said)["error"]
    assert TOKEN not in said


@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        TOKEN.replace("osk_", "oss_"),
        TOKEN.replace("osk_", "osl_"),
        "hf_abcdefghijklmnop",
        "planted hugging",
        "planted hugging face",
        'planted"ledger\\',
        "planted-key",
    ],
)
def test_a_secret_is_nowhere_in_a_line(secret: str) -> None:
    said = line(
        f"asked with {secret}.", path=f"/x?token={secret}", more={secret: [(secret, 1)], "object": Secret(secret)}
    )

    assert secret not in said
    assert json.dumps(secret)[1:-1] not in said
    assert json.loads(said)["event"] == "asked with [secret]."


class Secret:
    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __str__(self) -> str:
        return self.secret


def test_whatever_follows_bearer_is_a_secret() -> None:
    assert json.loads(line("Authorization: bearer  abc.def=="))["event"] == "Authorization: [secret]"


@pytest.mark.parametrize("words", ["a short token", "/srv/keys/run-signer.pem", "/srv/oneseek", "run-20251122-143025"])
def test_what_is_no_secret_is_said(words: str) -> None:
    assert json.loads(line(words))["event"] == words


@given(event=st.text(), field=JSON)
def test_whatever_is_logged_is_one_line_of_printable_json(event: str, field: Any) -> None:
    said = line("%s", event, field=field)

    assert said.isascii()
    assert not set(said) & set(map(chr, range(32)))
    assert json.loads(said, parse_constant=pytest.fail)["event"] == event


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_is_written_as_words(number: float) -> None:
    assert json.loads(line("lost", losses=[number, 0.5]))["losses"] == [str(number), 0.5]


def test_fields_cannot_pass_for_others() -> None:
    said = json.loads(line("honest", level="critical", time="never", logger="another", event="forged"))

    assert (said["level"], said["logger"], said["event"]) == ("info", "oneseek.server", "honest")
    assert said["time"] != "never"


PROGRAM = """
import logging, warnings
from oneseek.server import log
log.begin("info", {})
logging.getLogger("oneseek.access").info("request", extra={"status": 200})
logging.getLogger("oneseek.server").debug("hidden")
logging.getLogger("uvicorn.error").info("hidden")
logging.getLogger("uvicorn.error").warning("strange request")
logging.getLogger("alembic.runtime.migration").info("hidden")
warnings.warn("old")
"""


def test_everything_that_is_logged_in_the_process_goes_to_standard_error() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    said = [json.loads(each) for each in done.stderr.splitlines()]
    assert [(each["logger"], each["event"].split(":")[0]) for each in said] == [
        ("oneseek.access", "request"),
        ("uvicorn.error", "strange request"),
        ("py.warnings", "<string>"),
    ]
    assert done.stdout == ""
