"""What the figures were taken on."""

import importlib.metadata
import os
import platform
from contextlib import suppress
from pathlib import Path


def machine() -> str:
    """CPU, usable cores, operating system, Python and interpreter versions, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        runtime = f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"
    except importlib.metadata.PackageNotFoundError:
        runtime = "no ai-edge-litert"
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{_cpu()}, {cores} core{'s' if cores != 1 else ''}, {system}, Python {platform.python_version()}, {runtime}"


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown CPU"
