"""GPU readings: through NVML where it loads, else through GPUtil, else none."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pynvml


@dataclass(frozen=True)
class GpuReading:
    """One look at the first GPU; None where the driver does not tell.

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
    """Something that can look at the first GPU."""

    names: list[str]

    def read(self) -> GpuReading: ...

    def process_bytes(self) -> dict[int, int] | None:
        """Memory in use by pid; None if the driver does not tell (in a container it may not)."""


class NvmlReader:
    """NVML: readings without starting a process."""

    def __init__(self) -> None:
        pynvml.nvmlInit()
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
        self.names = [pynvml.nvmlDeviceGetName(handle) for handle in handles]
        self.handle = handles[0]  # IndexError if the driver is there without a device

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
        self.names = [gpu.name for gpu in self.read_all()]
        if not self.names:
            raise ValueError("nvidia-smi lists no device")

    def read(self) -> GpuReading:
        gpu = self.read_all()[0]
        percent = None if math.isnan(gpu.load) else 100 * gpu.load
        used, total = (
            None if math.isnan(mebibytes) else int(mebibytes * 2**20)
            for mebibytes in (gpu.memoryUsed, gpu.memoryTotal)
        )
        return GpuReading(percent, used, total, None, None)

    def process_bytes(self) -> None:
        """It lists no processes."""


def gpu_reader() -> GpuReader | None:
    """A reader for the first GPU; None if there is no GPU or nothing that can read it."""
    with contextlib.suppress(pynvml.NVMLError, IndexError):
        return NvmlReader()
    with contextlib.suppress(ImportError, ValueError, OSError):
        return GputilReader()
    return None
