"""What the server answers is what its own description says, whatever is asked; and nothing makes it fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from oneseek import runs
from oneseek.datasets import store
from oneseek.runs.outside import Report, report
from support.certified import certified_town
from support.hub import stand_in
from support.ledger_service import stage
from support.runs import Town
from support.server import Served, served

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SETTINGS = settings(
    max_examples=8,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
OUTSIDE = "run-20231122-143025"
# What would end the test's own access, or go on for as long as the test lets it.
NOT_FOR_LONG = {"DELETE /api/tokens/{token_id}", "GET /api/training/{run_id}/events"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, str]]:
    """A server on loopback of a home in which there is something of everything."""
    with stand_in(monkeypatch, tmp_path / "cache"), stage() as address:
        town = certified_town(tmp_path / "home").town
        store.add(town.home, town.dataset, "town")
        report(town.home, OUTSIDE, Report(epoch=1, total_epochs=2, val_losses={"alfa": 3.2, "beta": None}))
        with served(town, port=int(address.address.rsplit(":", 1)[1])) as whole:
            yield whole, address.play(whole.app)


def known(town: Town) -> dict[str, list[str]]:
    """Names that mean something, by the parameter that takes them."""
    there = [run.run_id for run in runs.list_runs(town.home)]
    return {
        "run_id": there,
        "dataset": ["town", store.get(town.home, "town").sha256[:12]],
        "key": ["alfa-1b"],
        "path": ["manifest.json", "adapters/alfa-1b/adapter_model.safetensors"],
        "index": ["0", "1"],
    }


def test_no_request_gets_an_answer_that_is_not_described_or_a_failure(server: tuple[Served, str]) -> None:
    whole, address = server
    headers = whole.token("admin")
    document = requests.get(f"{address}/openapi.json", headers=headers, timeout=10).json()
    names, statuses, faults = known(whole.town), Counter[tuple[str, int]](), dict[str, str]()

    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]
        if operation.label in NOT_FOR_LONG:
            continue

        @SETTINGS
        @given(case=operation.as_strategy(), data=st.data())
        def ask(case: Any, data: st.DataObject) -> None:
            for name in case.path_parameters or {}:
                if name in names and data.draw(st.booleans()):
                    case.path_parameters[name] = data.draw(st.sampled_from(names[name]))
            answer = case.call(base_url=address, headers=headers, timeout=30)
            statuses[case.operation.label, answer.status_code] += 1
            try:
                case.validate_response(answer, checks=CHECKS)
            except BaseExceptionGroup as error:
                faults[f"{case.operation.label}: {error}"] = answer.text[:500]

        ask()

    assert faults == {}
    assert sum(count for (_, status), count in statuses.items() if status < 300) > 50
    assert {status for _, status in statuses} >= {200, 201, 400, 404, 409}
