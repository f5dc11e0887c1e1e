"""GPU readings, of the card the servers use: through NVML where it loads, else through GPUtil."""

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pynvml

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class GpuReading:
    """One look at a GPU; None where the driver does not tell.

    Attributes:
        percent: share of the driver's last sampling period (1/6 to 1 s) in which any kernel ran:
            not how full it was.
        memory_bytes: memory in use, by everybody.
        memory_total_bytes: memory there is.
        power_w: power drawn.
        energy_j: energy drawn since the driver was loaded.
    """

    percent: float | None
    memory_bytes: int | None
    memory_total_bytes: int | None
    power_w: float | None
    energy_j: float | None


class GpuReader(Protocol):
    """Something that can look at the GPU that the servers use.

    Attributes:
        names: of that one.
        uuid: as the driver and CUDA_VISIBLE_DEVICES name it.
    """

    names: list[str]
    uuid: str

    def read(self) -> GpuReading: ...

    def process_bytes(self) -> dict[int, int] | None:
        """Memory in use by pid; None if the driver does not tell (in a container it may not)."""


class NvmlReader:
    """NVML: readings without starting a process.

    Raises LookupError if the driver is there without a device, or CUDA_VISIBLE_DEVICES hides all.
    """

    def __init__(self) -> None:
        pynvml.nvmlInit()
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
        uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
        self.uuid = first_visible(uuids)
        # a slice of a card (MIG) is no device of its own there
        own = [handle for handle, uuid in zip(handles, uuids, strict=True) if uuid == self.uuid]
        self.handle = own[0] if own else pynvml.nvmlDeviceGetHandleByUUID(self.uuid)
        self.names = [pynvml.nvmlDeviceGetName(self.handle)]

    def read(self) -> GpuReading:
        power = self.answer(pynvml.nvmlDeviceGetPowerUsage)
        energy = self.answer(pynvml.nvmlDeviceGetTotalEnergyConsumption)
        utilisation, memory = (
            self.answer(pynvml.nvmlDeviceGetUtilizationRates),
            self.answer(pynvml.nvmlDeviceGetMemoryInfo),
        )
        return GpuReading(
            percent=utilisation and float(utilisation.gpu),
            memory_bytes=memory and int(memory.used),
            memory_total_bytes=memory and int(memory.total),
            power_w=None if power is None else power / 1e3,
            energy_j=None if energy is None else energy / 1e3,
        )

    def process_bytes(self) -> dict[int, int] | None:
        running = self.answer(pynvml.nvmlDeviceGetComputeRunningProcesses)
        if running is None or any(each.usedGpuMemory is None for each in running):
            return None
        return {each.pid: int(each.usedGpuMemory) for each in running}

    def answer(self, question: Callable[[Any], Any]) -> Any:
        """The driver's answer; None where it has none, as for utilisation on a MIG slice."""
        with contextlib.suppress(pynvml.NVMLError):
            return question(self.handle)
        return None


class GputilReader:
    """GPUtil: starts nvidia-smi for every reading; no power, no energy."""

    def __init__(self) -> None:
        import GPUtil

        self.read_all = GPUtil.getGPUs
        cards = self.read_all()
        self.uuid = first_visible([card.uuid for card in cards])
        self.names = [card.name for card in cards if card.uuid == self.uuid]
        if not self.names:
            raise LookupError(f"nvidia-smi does not list {self.uuid}")

    def read(self) -> GpuReading:
        gpu = next(card for card in self.read_all() if card.uuid == self.uuid)
        percent = None if math.isnan(gpu.load) else 100 * gpu.load
        used, total = (
            None if math.isnan(mebibytes) else int(mebibytes * 2**20)
            for mebibytes in (gpu.memoryUsed, gpu.memoryTotal)
        )
        return GpuReading(percent, used, total, None, None)

    def process_bytes(self) -> None:
        """It lists no processes."""


def first_visible(uuids: Sequence[str], visible: str | None = None) -> str:
    """Which of the cards, in the driver's order, CUDA_VISIBLE_DEVICES puts first: it names them by
    number, by UUID or its beginning. LookupError if it puts none there.
    """
    visible = os.environ.get(VISIBLE) if visible is None else visible
    if visible is None:
        return uuids[0]
    first = visible.split(",")[0].strip()
    if first.isdecimal():
        return uuids[int(first)]
    if first.startswith("MIG-"):
        return first
    matching = [uuid for uuid in uuids if first and uuid.startswith(first)]
    if len(matching) != 1:
        raise LookupError(f"{VISIBLE}={visible} names no card")
    return matching[0]


def gpu_reader(accelerator: str = "auto") -> GpuReader | None:
    """A reader for the GPU that servers and models started from here on will use, however many
    there are; None if they use none, or nothing can read it.

    CUDA numbers cards by speed, the driver by their place: the UUID, left in the environment, means
    the same one to both.
    """
    if accelerator not in ("auto", "cuda"):
        return None
    for reader in (NvmlReader, GputilReader):
        with contextlib.suppress(pynvml.NVMLError, LookupError, ImportError, ValueError, OSError):
            made = reader()
            os.environ[VISIBLE] = made.uuid
            return made
    return None
