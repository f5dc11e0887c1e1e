"""The cores that this process may keep busy: its affinity, cut to its container's quota."""

import contextlib
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpu_quota() -> float | None:
    """Cores that the control group (version 2) grants; None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return int(quota) / int(period)
    return None


def usable_cores() -> int:
    """Whole cores, at least one."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, min(cores, int(cpu_quota() or cores)))
