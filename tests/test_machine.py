"""What people are told of the machine: its devices, with names and memory, without anything being loaded for it."""

from __future__ import annotations

import ctypes
import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from oneseek import runs
from support.runs import Town
from support.supervised import ASKED, desk

told = importlib.import_module("oneseek.runs.machine")  # whose name in `runs` is that of its function
FREE = {"devices", "memory_bytes", "free_memory_bytes", "disk_free_bytes", "cores"}


class Nvml:
    """NVIDIA's library of a machine with two GPUs, of which the second tells nothing of its memory."""

    UUIDS = (b"GPU-8932f937", b"MIG-1")

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:  # noqa: N802
        handle._obj.value = index + 1
        return 0 if index < len(self.UUIDS) else 2

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:  # noqa: N802
        return self.nvmlDeviceGetHandleByIndex_v2(self.UUIDS.index(uuid) if uuid in self.UUIDS else 9, handle)

    def nvmlDeviceGetName(self, handle: ctypes.c_void_p, name: Any, length: int) -> int:  # noqa: N802
        name.value = b"NVIDIA H100 80GB HBM3"[: length - 1]
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: ctypes.c_void_p, memory: Any) -> int:  # noqa: N802
        memory._obj.total, memory._obj.free = 80 * 2**30, 79 * 2**30
        return 0 if handle.value == 1 else 3


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    told._nvml.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Nvml())
    yield
    told._nvml.cache_clear()


def test_a_processor_is_told_with_the_memory_of_the_machine(town: Town) -> None:
    found = runs.machine(town.home, ("cpu",))

    (cpu,) = found.devices
    assert cpu.name == "cpu"
    assert cpu.title
    assert cpu.memory_bytes == found.memory_bytes == psutil.virtual_memory().total
    assert 0 < found.free_memory_bytes < found.memory_bytes
    assert found.disk_free_bytes
    assert found.cores >= 1


@pytest.mark.usefixtures("nvml")
def test_gpus_have_the_name_and_the_memory_that_their_driver_tells(town: Town) -> None:
    found = runs.machine(town.home, ("cuda:0", "cuda:GPU-8932f937", "cuda:1", "cuda:MIG-1", "cuda:7"))

    titles = ["NVIDIA H100 80GB HBM3"] * 4 + ["cuda:7"]
    assert [device.title for device in found.devices] == titles
    assert [device.free_memory_bytes for device in found.devices] == [79 * 2**30] * 2 + [None] * 3
    assert found.memory_bytes == psutil.virtual_memory().total


@pytest.mark.parametrize("library", [OSError("no such library"), AttributeError("nvmlInit_v2")])
def test_where_nothing_tells_of_a_gpu_its_memory_is_not_known(
    town: Town, monkeypatch: pytest.MonkeyPatch, library: Exception
) -> None:
    def missing(name: str) -> Nvml:
        raise library

    told._nvml.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)

    (gpu,) = runs.machine(town.home, ("cuda:0",)).devices
    told._nvml.cache_clear()

    assert (gpu.title, gpu.memory_bytes, gpu.free_memory_bytes) == ("cuda:0", None, None)


def test_the_server_tells_its_machine_and_what_it_judges_requests_on(town: Town) -> None:
    with desk(town, {}) as at:
        machine = at.client.get("/api/machine").json()
        verdict = at.client.post("/api/validate?partial=true", json=ASKED).json()

    assert set(machine) == set(verdict["machine"]) == FREE
    assert [device["name"] for device in machine["devices"]] == ["cpu"]


@pytest.mark.usefixtures("nvml")
def test_a_request_is_judged_on_the_devices_that_the_server_trains_on(town: Town) -> None:
    with desk(town, {}, devices=("cuda:0", "cpu")) as at:
        machine = at.client.post("/api/validate?partial=true", json=ASKED).json()["machine"]

    assert [device["name"] for device in machine["devices"]] == ["cuda:0", "cpu"]
    assert machine["devices"][1]["free_memory_bytes"] == machine["free_memory_bytes"]


def test_nobody_waits_for_torch_to_hear_of_the_machine() -> None:
    code = "import sys, oneseek.runs.machine; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
