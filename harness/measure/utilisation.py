"""CPU by role, memory and GPU: readings at the edges of a window, and what was used between them.

CPU comes from the nanoseconds that the kernel's scheduler counts per thread, since a window is
short beside its ticks of 10 ms. All CPU percentages are of one core: 200 means two cores busy.
"""

import contextlib
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import psutil

from harness.measure.gpu import GpuReader, GpuReading

GPU_PERIOD_S = 0.1
HTTP, QUEUE, WORKERS = ROLES = ("http", "queue", "workers")
PROC = Path("/proc")


@dataclass(frozen=True)
class Usage:
    """What a window used; None where nothing can be known.

    Attributes:
        seconds: between its two readings.
        suspended_s: what the clock on the wall moved beyond that: the machine slept, or was set.
        machine_percent: CPU busy for anybody, percent of one core.
        stolen_percent: CPU that the hypervisor gave to others, percent of one core.
        role_cpu_s: CPU seconds of the server's HTTP processes, queue manager with parent, workers.
        gpu_percent, gpu_power_w: means; gpu_memory_bytes: the largest; gpu_energy_j: drawn.
    """

    seconds: float | None = None
    suspended_s: float | None = None
    machine_percent: float | None = None
    stolen_percent: float | None = None
    role_cpu_s: dict[str, float] | None = None
    gpu_percent: float | None = None
    gpu_memory_bytes: int | None = None
    gpu_power_w: float | None = None
    gpu_energy_j: float | None = None


@dataclass(frozen=True)
class Reading:
    """One look: the monotonic clock (which stands still while a machine sleeps) and that on the
    wall, cumulative CPU seconds of machine, thieves and server's roles.
    """

    moment: float
    wall_s: float
    machine_s: float
    stolen_s: float
    role_s: dict[str, float] | None
    gpu: GpuReading | None


class ProcessTree:
    """The processes of a server by role, as they are now.

    Args:
        parent_pid: the LitServe parent, whose whole tree counts.
        stats: what /stats said, for the pids of HTTP processes and workers.
    """

    def __init__(self, parent_pid: int, stats: dict[str, Any] | None) -> None:
        parent = psutil.Process(parent_pid)
        self.processes = [parent, *parent.children(recursive=True)]
        stats = stats or {"http": [], "workers": []}
        roles = {row["pid"]: HTTP for row in stats["http"]}
        self.roles = roles | {row["pid"]: WORKERS for row in stats["workers"]}

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds since they started, by role."""
        seconds = dict.fromkeys(ROLES, 0.0)
        for process in self.processes:
            with contextlib.suppress(OSError, psutil.Error):
                seconds[self.roles.get(process.pid, QUEUE)] += process_cpu_s(process)
        return seconds

    def memory_bytes(self) -> int:
        """Memory of all, pages they share divided among the sharers."""
        return sum(map(process_memory_bytes, self.processes))

    def worker_memory_bytes(self) -> int | None:
        """Memory of a worker process, mean over them; None if none is known."""
        used = [
            process_memory_bytes(process)
            for process in self.processes
            if self.roles.get(process.pid) == WORKERS
        ]
        return round(sum(used) / len(used)) if used else None


def process_memory_bytes(process: psutil.Process) -> int:
    """Memory of a process, pages it shares divided among the sharers; 0 if it has ended."""
    with contextlib.suppress(psutil.Error):
        memory = process.memory_full_info()
        return getattr(memory, "pss", 0) or memory.uss
    return 0


def process_cpu_s(process: psutil.Process) -> float:
    """CPU seconds of all living threads of a process, to the nanosecond where the kernel tells."""
    tasks = PROC / str(process.pid) / "task"
    if not (tasks / str(process.pid) / "schedstat").exists():
        used = process.cpu_times()
        return used.user + used.system
    nanoseconds = 0
    for task in tasks.iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


class Meter:
    """Takes readings, and samples the GPU between them.

    Args:
        gpu: the reader of the GPU; None without one.
    """

    def __init__(self, gpu: GpuReader | None) -> None:
        self.gpu = gpu

    def read(self, tree: ProcessTree | None) -> Reading:
        """Look once; without a tree at the machine and the GPU only."""
        busy = psutil.cpu_times()
        machine_s = busy.user + getattr(busy, "nice", 0.0) + busy.system
        machine_s += getattr(busy, "irq", 0.0) + getattr(busy, "softirq", 0.0)
        return Reading(
            time.monotonic(),
            time.time(),
            machine_s,
            getattr(busy, "steal", 0.0),
            tree.cpu_s() if tree else None,
            self.gpu.read() if self.gpu else None,
        )

    @contextlib.contextmanager
    def gpu_samples(self):
        """A list that fills with readings of the GPU for as long as the `with` block lasts."""
        samples: list[GpuReading] = []
        over = threading.Event()

        def sample() -> None:
            while not over.wait(GPU_PERIOD_S):
                samples.append(self.gpu.read())

        thread = threading.Thread(target=sample, name="gpu", daemon=True) if self.gpu else None
        if thread:
            thread.start()
        try:
            yield samples
        finally:
            over.set()
            if thread:
                thread.join()


def usage_between(before: Reading, after: Reading, gpu: Iterable[GpuReading]) -> Usage:
    """What was used between two readings."""
    seconds = after.moment - before.moment
    if seconds <= 0:
        return Usage()
    roles = None
    if before.role_s is not None and after.role_s is not None:
        roles = {role: after.role_s[role] - used for role, used in before.role_s.items()}
    return Usage(
        seconds=seconds,
        suspended_s=max(0.0, after.wall_s - before.wall_s - seconds),
        machine_percent=100 * (after.machine_s - before.machine_s) / seconds,
        stolen_percent=100 * (after.stolen_s - before.stolen_s) / seconds,
        role_cpu_s=roles,
        **gpu_usage([each for each in (before.gpu, *gpu, after.gpu) if each]),
        gpu_energy_j=energy_between(before.gpu, after.gpu),
    )


def energy_between(before: GpuReading | None, after: GpuReading | None) -> float | None:
    """What the GPU drew, joules; None if it does not tell."""
    if not before or not after or None in (before.energy_j, after.energy_j):
        return None
    return after.energy_j - before.energy_j


def gpu_usage(readings: list[GpuReading]) -> dict[str, Any]:
    """The GPU fields of Usage from the readings of a window."""

    def known(name: str) -> list[float]:
        values = [getattr(reading, name) for reading in readings]
        return [value for value in values if value is not None]

    return {
        "gpu_percent": float(numpy.mean(known("percent"))) if known("percent") else None,
        "gpu_memory_bytes": max(known("memory_bytes"), default=None),
        "gpu_power_w": float(numpy.mean(known("power_w"))) if known("power_w") else None,
    }
