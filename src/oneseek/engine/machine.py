"""What a trainer can see of the machine that it runs on."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import psutil


def peak_memory_bytes() -> int:
    """The most memory that this process has held at once (resident set)."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux" and (own := _high_water_mark()):
        return own
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def _high_water_mark() -> int | None:
    """The same as Linux tells it of this program alone: getrusage counts what the process was before it became this
    program, which was a copy of whoever started it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def processor_name() -> str:
    """The processor by the name that the operating system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def system_fingerprint() -> dict[str, str]:
    """Operating system and processor: equal on two machines that may give bit-equal weights."""
    return {"system": platform.system(), "machine": platform.machine(), "processor": processor_name()}
