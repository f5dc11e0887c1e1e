"""Running totals of the workers, in memory that they write and the HTTP processes read: what /stats tells."""

import multiprocessing
import os
from collections.abc import Sequence
from ctypes import Array, c_double
from typing import Any

WAITING = "waiting"
DOOR_WIDTH = 4
FIRST_STAGE_AT = 6  # after pid, requests, rejected, batches, and twice waiting


class Counters:
    """Running totals of every worker, in memory that the workers write and the HTTP processes read.

    A row holds the worker's pid, requests, rejected requests, batches; for each stage the seconds the worker was busy
    with it and the seconds requests spent in it (a request waits for its whole batch); the figures that an API tells
    about itself after setup; and how many batches of each size were formed. A door holds an HTTP process's pid,
    requests that passed it, and the seconds they took from being sent to the queue, and from there to their answer's
    end. Only its own process writes a row, so no lock is needed; readers may see one batch that is not yet added to
    all cells.

    Args:
        workers: how many rows.
        max_batch_size: the largest batch that can be formed.
        stages: names of the stages after waiting, in order.
        figures: names of what the API measures in setup.
        api_servers: HTTP processes.
    """

    def __init__(
        self,
        workers: int,
        max_batch_size: int,
        stages: Sequence[str],
        figures: Sequence[str] = (),
        api_servers: int = 1,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.stages, self.figures = (WAITING, *stages), tuple(figures)
        self.figures_at = 4 + 2 * len(self.stages)
        self.sizes_at = self.figures_at + len(self.figures)
        self.width = self.sizes_at + max_batch_size + 1
        self.cells: Array[c_double] = context.RawArray(c_double, workers * self.width)
        self.doors: Array[c_double] = context.RawArray(c_double, api_servers * DOOR_WIDTH)

    def row(self, worker: int) -> "Row":
        """The row of one worker, for that worker to write."""
        return Row(self, worker * self.width)

    def door(self, process: int) -> "Door":
        """The row of one HTTP process, for that process to write."""
        return Door(self.doors, process * DOOR_WIDTH)

    def snapshot(self) -> dict[str, Any]:
        """Per HTTP process: pid, requests, arriving_s, returning_s.

        Per worker: pid, requests, rejected, batches, busy_s and spent_s per stage, figures, batch_sizes.
        """
        doors = [self.doors[start : start + DOOR_WIDTH] for start in range(0, len(self.doors), DOOR_WIDTH)]
        rows = [self.cells[start : start + self.width] for start in range(0, len(self.cells), self.width)]
        return {
            "http": [
                {"pid": int(pid), "requests": int(requests), "arriving_s": arriving_s, "returning_s": returning_s}
                for pid, requests, arriving_s, returning_s in doors
            ],
            "workers": [self.described(row) for row in rows],
        }

    def described(self, row: list[float]) -> dict[str, Any]:
        pid, requests, rejected, batches = (int(cell) for cell in row[:4])
        figures_at = self.figures_at
        return {
            "pid": pid, "requests": requests, "rejected": rejected, "batches": batches,
            "busy_s": dict(zip(self.stages, row[4:figures_at:2], strict=True)),
            "spent_s": dict(zip(self.stages, row[5:figures_at:2], strict=True)),
            "figures": dict(zip(self.figures, row[figures_at : self.sizes_at], strict=True)),
            "batch_sizes": {size: int(count) for size, count in enumerate(row[self.sizes_at :]) if count},
        }  # fmt: skip


class Door:
    """The cells of one HTTP process."""

    def __init__(self, cells: "Array[c_double]", start: int) -> None:
        self.cells = doubles(cells)[start : start + DOOR_WIDTH]
        self.cells[0] = os.getpid()

    def passed(self, arriving_s: float, returning_s: float) -> None:
        """Add one request: seconds from being sent to the queue, and from the queue to the end of its answer."""
        cells = self.cells
        cells[1] += 1
        cells[2] += arriving_s
        cells[3] += returning_s


class Row:
    """The cells of one worker."""

    def __init__(self, counters: Counters, start: int) -> None:
        self.cells = doubles(counters.cells)[start : start + counters.width]
        self.cells[0] = os.getpid()
        self.counters = counters

    def set_up(self, figures: dict[str, float]) -> None:
        """Note what the API has measured in setup."""
        for at, name in enumerate(self.counters.figures, start=self.counters.figures_at):
            self.cells[at] = figures[name]

    def batch_done(self, size: int, rejected: int, busy_s: dict[str, float], waited_s: float) -> None:
        """Add one batch: size, rejected requests, seconds of each stage in order, summed waiting of its requests."""
        cells, at = self.cells, FIRST_STAGE_AT
        cells[1] += size
        cells[2] += rejected
        cells[3] += 1
        cells[at - 1] += waited_s
        for seconds in busy_s.values():
            cells[at] += seconds
            cells[at + 1] += seconds * size
            at += 2
        cells[self.counters.sizes_at + size] += 1


def doubles(cells: "Array[c_double]") -> memoryview:
    """Shared memory as Python's own doubles, which are read and written without ctypes."""
    return memoryview(cells).cast("B").cast("d")
