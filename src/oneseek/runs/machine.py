"""The machine that runs are trained on, as people want to know it: what it is, and what of it is free just now."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import msgspec
import psutil

from oneseek.engine.machine import processor_name
from oneseek.files.layout import Home

_NVML = "libnvidia-ml.so.1"
_LONGEST_NAME = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What models are trained on: `name` as `cpu` or `cuda:0`, `title` what its maker calls it. The memory is its own;
    None where its driver does not tell."""

    name: str
    title: str
    memory_bytes: int | None
    free_memory_bytes: int | None


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """`devices` are those that runs may be trained on. `memory_bytes` and `free_memory_bytes` are the machine's own
    memory, which estimates are judged by whatever the device is; `disk_free_bytes` is where results go, None where that
    can't be read; `cores` those that may be used."""

    devices: tuple[Device, ...]
    memory_bytes: int
    free_memory_bytes: int
    disk_free_bytes: int | None
    cores: int


def machine(home: Home, devices: Sequence[str]) -> Machine:
    """This machine as it is now. Takes no millisecond once it was asked: nothing here waits for torch or a GPU.

    devices: as `runs.devices` names them.
    """
    memory = psutil.virtual_memory()
    return Machine(
        devices=tuple(_gpu(name) if name != "cpu" else _cpu(memory.total, memory.available) for name in devices),
        memory_bytes=memory.total,
        free_memory_bytes=memory.available,
        disk_free_bytes=_free_disk(home.models),
        cores=usable_cores(),
    )


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu(total: int, free: int) -> Device:
    return Device(name="cpu", title=_processor(), memory_bytes=total, free_memory_bytes=free)


@cache
def _processor() -> str:
    return processor_name()


def _free_disk(directory: Path) -> int | None:
    place = directory.absolute()
    try:
        return shutil.disk_usage(next(each for each in (place, *place.parents) if each.exists())).free
    except OSError:
        return None


# -- NVIDIA's own library, which comes with their driver: https://docs.nvidia.com/deploy/nvml-api/ ---------------------


class _Memory(ctypes.Structure):
    """nvmlMemory_t"""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _gpu(name: str) -> Device:
    """name: `cuda:` and a number or the UUID of a GPU or a part of one."""
    nvml, which = _nvml(), name.partition(":")[2]
    handle = ctypes.c_void_p()
    if nvml is None or not _found(nvml, which, handle):
        return Device(name=name, title=name, memory_bytes=None, free_memory_bytes=None)
    title, memory = ctypes.create_string_buffer(_LONGEST_NAME), _Memory()
    named = nvml.nvmlDeviceGetName(handle, title, _LONGEST_NAME) == 0
    told = nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0
    return Device(
        name=name,
        title=title.value.decode(errors="replace") if named else name,
        memory_bytes=memory.total if told else None,
        free_memory_bytes=memory.free if told else None,
    )


def _found(nvml: ctypes.CDLL, which: str, handle: ctypes.c_void_p) -> bool:
    """Whether there is such a device, which `handle` means then. Numbers are those of its place on the bus, by which
    CUDA too counts devices that are equal."""
    if which.isdigit():
        return bool(nvml.nvmlDeviceGetHandleByIndex_v2(int(which), ctypes.byref(handle)) == 0)
    return bool(nvml.nvmlDeviceGetHandleByUUID(which.encode(), ctypes.byref(handle)) == 0)


@cache
def _nvml() -> ctypes.CDLL | None:
    """The library, begun once; None where it is not there, or says that it can't."""
    try:
        nvml = ctypes.CDLL(_NVML)
        return nvml if nvml.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None
