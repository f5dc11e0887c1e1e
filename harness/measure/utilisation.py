"""CPU by role, memory and GPU while the load runs, sampled on a thread of its own.

CPU comes from the cumulative CPU seconds of processes at the edges of the measured window, not from
momentary percentages. All CPU percentages are of one core: 200 means two cores busy.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import psutil

from harness.measure.gpu import GpuReader, GpuReading

PERIOD_S = 0.25
MEMORY_EVERY = 8  # samples: a process's proportional set size takes the kernel milliseconds
HTTP, QUEUE, WORKERS = ROLES = ("http", "queue", "workers")


@dataclass(frozen=True)
class Usage:
    """What a window of the load used; None where nothing can be known.

    Attributes:
        machine_percent: CPU busy for anybody, percent of one core.
        stolen_percent: CPU that the hypervisor gave to others, percent of one core.
        server_percent: CPU of the server's whole process tree, percent of one core; None for a
            remote server.
        role_percent: the same by role: HTTP processes, queue manager with parent, workers.
        memory_bytes: largest sampled sum of proportional set sizes of the server's processes.
        gpu_percent, gpu_power_w: means over the window; gpu_memory_bytes: the largest;
            gpu_energy_j: drawn within it.
    """

    machine_percent: float | None
    stolen_percent: float | None
    server_percent: float | None
    role_percent: dict[str, float] | None
    memory_bytes: int | None
    gpu_percent: float | None
    gpu_memory_bytes: int | None
    gpu_power_w: float | None
    gpu_energy_j: float | None


@dataclass(frozen=True)
class Sample:
    """One look: monotonic time, cumulative CPU seconds by role, of the machine and stolen, memory,
    GPU.
    """

    moment: float
    role_s: dict[str, float]
    machine_s: float
    stolen_s: float
    memory_bytes: int | None
    gpu: GpuReading | None


class Sampler:
    """Samples from `with` to its end; afterwards `usage(opened, closed)` tells about any window
    inside.

    Args:
        server_pid: the LitServe parent, whose whole tree counts; None to look at the machine and
            GPU only.
        stats: what /stats said, for the pids of each role.
        gpu: the reader of the GPU; None without one.
    """

    def __init__(
        self, server_pid: int | None, stats: dict[str, Any] | None, gpu: GpuReader | None
    ) -> None:
        self.parent = psutil.Process(server_pid) if server_pid else None
        self.gpu = gpu
        stats = stats or {"http": [], "workers": []}
        self.roles = {row["pid"]: HTTP for row in stats["http"]} | {
            row["pid"]: WORKERS for row in stats["workers"]
        }
        self.processes: dict[int, psutil.Process] = {}
        self.cpu_s: dict[int, float] = {}
        self.samples: list[Sample] = []
        self.stopped = threading.Event()
        self.thread = threading.Thread(
            target=self.sample_until_stopped, name="utilisation", daemon=True
        )

    def __enter__(self) -> "Sampler":
        self.samples.append(self.sample(memory=True))
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()
        self.samples.append(self.sample(memory=False))

    def sample_until_stopped(self) -> None:
        while not self.stopped.wait(PERIOD_S):
            self.samples.append(self.sample(memory=len(self.samples) % MEMORY_EVERY == 0))

    def sample(self, memory: bool) -> Sample:
        """Look once."""
        self.find_processes()
        memory_bytes = 0
        for pid, process in self.processes.items():
            try:
                used = process.cpu_times()
                self.cpu_s[pid] = used.user + used.system
                memory_bytes += proportional_bytes(process) if memory else 0
            except psutil.Error:
                continue  # it has ended: what it used until the last look still counts
        role_s = dict.fromkeys(ROLES, 0.0)
        for pid, seconds in self.cpu_s.items():
            role_s[self.roles.get(pid, QUEUE)] += seconds
        busy = psutil.cpu_times()
        stolen_s = getattr(busy, "steal", 0.0)
        machine_s = busy.user + getattr(busy, "nice", 0.0) + busy.system
        machine_s += getattr(busy, "irq", 0.0) + getattr(busy, "softirq", 0.0)
        gpu = self.gpu.read() if self.gpu else None
        return Sample(time.monotonic(), role_s, machine_s, stolen_s, memory_bytes or None, gpu)

    def find_processes(self) -> None:
        """Look for processes of the server's tree that are new since the last look."""
        if self.parent is None:
            return
        try:
            tree = [self.parent, *self.parent.children(recursive=True)]
        except psutil.Error:
            return
        for process in tree:
            self.processes.setdefault(process.pid, process)

    def usage(self, opened: float, closed: float) -> Usage:
        """What was used between two moments of the monotonic clock."""
        moments = [sample.moment for sample in self.samples]

        def percent(cumulative_s: Sequence[float]) -> float:
            edges = numpy.interp((opened, closed), moments, cumulative_s)
            return float(100 * (edges[1] - edges[0]) / (closed - opened))

        if not closed > opened:
            return Usage(*[None] * 9)
        roles = {role: percent([sample.role_s[role] for sample in self.samples]) for role in ROLES}
        memory = [sample.memory_bytes for sample in self.samples if sample.memory_bytes]
        return Usage(
            machine_percent=percent([sample.machine_s for sample in self.samples]),
            stolen_percent=percent([sample.stolen_s for sample in self.samples]),
            server_percent=sum(roles.values()) if self.parent else None,
            role_percent=roles if self.parent else None,
            memory_bytes=max(memory, default=None),
            **gpu_usage(
                [
                    sample.gpu
                    for sample in self.samples
                    if opened <= sample.moment <= closed and sample.gpu
                ]
            ),
            gpu_energy_j=self.energy_j(opened, closed),
        )

    def energy_j(self, opened: float, closed: float) -> float | None:
        """What the GPU drew between two moments, joules; None if it does not tell."""
        metered = [
            sample for sample in self.samples if sample.gpu and sample.gpu.energy_j is not None
        ]
        if len(metered) < 2:  # one reading would interpolate to nothing drawn
            return None
        moments = [sample.moment for sample in metered]
        edges = numpy.interp((opened, closed), moments, [sample.gpu.energy_j for sample in metered])
        return float(edges[1] - edges[0])


def gpu_usage(readings: list[GpuReading]) -> dict[str, Any]:
    """The GPU fields of Usage from the readings inside the window."""

    def known(name: str) -> list[float]:
        values = [getattr(reading, name) for reading in readings]
        return [value for value in values if value is not None]

    return {
        "gpu_percent": float(numpy.mean(known("percent"))) if known("percent") else None,
        "gpu_memory_bytes": max(known("memory_bytes"), default=None),
        "gpu_power_w": float(numpy.mean(known("power_w"))) if known("power_w") else None,
    }


def proportional_bytes(process: psutil.Process) -> int:
    """Memory of a process, pages it shares divided among the sharers; its private pages where that
    is not told.
    """
    memory = process.memory_full_info()
    return getattr(memory, "pss", 0) or memory.uss
