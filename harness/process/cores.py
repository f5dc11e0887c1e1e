"""The cores that this process may keep busy: its affinity, cut to its control groups' quotas."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")


def control_groups(controller: str, proc: Path = PROC) -> Iterator[Path]:
    """The folders of this process's control group and of all above it that it sees, of version 2
    and of version 1 of that controller; none where the kernel has none.
    """
    with contextlib.suppress(OSError, ValueError):
        own = {}
        for line in (proc / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own |= dict.fromkeys(controllers.split(","), path)  # version 2 names no controller
        for line in (proc / "mountinfo").read_text().splitlines():
            mount, _, kind = line.partition(" - ")
            root, folder = mount.split()[3:5]
            kind, _, options = kind.split(" ", 2)
            name = {"cgroup2": "", "cgroup": controller}.get(kind)
            if name in own and (kind == "cgroup2" or controller in options.split(",")):
                yield from upwards(Path(folder), root, own[name])


def upwards(folder: Path, root: str, group: str) -> Iterator[Path]:
    """The folder of a group, and those above it up to where the hierarchy is mounted.

    Args:
        folder: where it is mounted.
        root: the group that is mounted there.
        group: the process's own.
    """
    below = PurePosixPath(group)
    # a container may name its group as the host does, and see nothing but that one mounted
    here = folder / below.relative_to(root) if below.is_relative_to(root) else folder
    yield here
    for parent in here.parents:
        if not parent.is_relative_to(folder):
            return
        yield parent


def cpu_quota(proc: Path = PROC) -> float | None:
    """Cores that the control groups grant, the tightest of all levels; None without a limit."""
    quotas = map(quota_of, control_groups("cpu", proc))
    return min((quota for quota in quotas if quota is not None), default=None)


def quota_of(group: Path) -> float | None:
    """Cores that one control group grants; None without a limit."""
    with contextlib.suppress(OSError, ValueError):  # version 2: "50000 100000" or "max 100000"
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return quota / int((group / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    return None


def usable_cores() -> int:
    """Whole cores, at least one."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, min(cores, int(cpu_quota() or cores)))
