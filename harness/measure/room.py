"""Whether memory has room for one more server beside those that are up: on the host, on the GPU."""

import contextlib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import psutil

from harness.measure.gpu import GpuReader
from harness.process.cores import control_groups

SPARE = 1.2  # what a server took once, it may take a little more of next time
RESERVE = 0.05  # of the host's memory, for the client and everybody else
MEMORY_FILES = (  # of a control group: its limit, what it uses, the page cache in memory.stat
    ("memory.max", "memory.current", "inactive_file"),  # version 2
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # version 1
)
OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|MemoryError|can't allocate memory|(ended with|exit code) -9\b",
    re.IGNORECASE,
)


class Memory(NamedTuple):
    """Bytes of the host's memory and of the first GPU's; the latter 0 where nothing is known."""

    host: int
    gpu: int


class Room:
    """Keeps in mind what every server took, to say whether the next one has room.

    Args:
        free: the memory that is left at this moment.
        reserve: what has to stay free.
    """

    def __init__(self, free: Callable[[], Memory], reserve: Memory) -> None:
        self.free, self.reserve = free, reserve
        self.taken: dict[str, Memory] = {}

    def note(self, name: str, before: Memory) -> None:
        """Note what a server took that was launched and warmed since so much memory was free."""
        after = self.free()
        self.taken[name] = Memory(*(max(0, b - a) for b, a in zip(before, after, strict=True)))

    def has_room(self, *names: str) -> bool:
        """Whether these servers fit: by what each took once, else by the most that any has."""
        if not self.taken:
            return True
        most = largest(self.taken.values())
        wanted = total(self.taken.get(name, most) for name in names)
        left = zip(self.free(), wanted, self.reserve, strict=True)
        return all(free >= SPARE * bytes_ + kept for free, bytes_, kept in left if bytes_)


def largest(memories: Iterable[Memory]) -> Memory:
    """The most of each kind."""
    return Memory(*map(max, zip(*memories, strict=True)))


def total(memories: Iterable[Memory]) -> Memory:
    """The sum of each kind."""
    return Memory(*map(sum, zip(*memories, strict=True)))


def room(gpu: GpuReader | None) -> Room:
    """The room on this machine: its memory, the container's limit, the first GPU's memory."""

    def free() -> Memory:
        left = [psutil.virtual_memory().available, *cgroup_free()]
        reading = gpu.read() if gpu else None
        on_gpu = reading and reading.memory_total_bytes and reading.memory_bytes is not None
        return Memory(min(left), reading.memory_total_bytes - reading.memory_bytes if on_gpu else 0)

    return Room(free, Memory(int(RESERVE * psutil.virtual_memory().total), 0))


def cgroup_free() -> list[int]:
    """What each control group's limit leaves, page cache counted as free; empty without limits."""
    left = []
    for group in control_groups("memory"):
        for limit, used, cache in MEMORY_FILES:
            with contextlib.suppress(OSError, ValueError, KeyError):
                stat = dict(map(str.split, (group / "memory.stat").read_text().splitlines()))
                most, now = (int((group / name).read_text()) for name in (limit, used))
                left.append(most - now + int(stat[cache]))
    return left


def lacked_memory(reason: str) -> bool:
    """Whether a server failed for want of memory, by what it said or how it ended."""
    return bool(OUT_OF_MEMORY.search(reason))
