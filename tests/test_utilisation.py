"""Utilisation against a process that burns a known amount of CPU."""

import math
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import ClassVar

import GPUtil
import psutil
import pynvml
import pytest

from harness.measure.gpu import GpuReading, gpu_reader
from harness.measure.utilisation import Sampler, gpu_usage

BURNER = """
import time
for _ in range(60):
    began, used = time.perf_counter(), time.process_time()
    while time.process_time() - used < 0.05: pass
    time.sleep(max(0, 0.1 - (time.perf_counter() - began)))
"""


@pytest.fixture
def burner():
    """A process that takes half a core (less if the machine denies it)."""
    process = subprocess.Popen([sys.executable, "-c", BURNER])
    time.sleep(0.3)
    yield process
    process.kill()
    process.wait()


def cpu_s(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system


def test_server_cpu_is_what_its_processes_burned(burner):
    with Sampler(burner.pid, None, None) as sampler:
        time.sleep(0.5)
        opened, before = time.monotonic(), cpu_s(burner.pid)
        time.sleep(2)
        closed, after = time.monotonic(), cpu_s(burner.pid)
        time.sleep(0.4)
    usage = sampler.usage(opened, closed)
    burned = 100 * (after - before) / (closed - opened)
    assert burned > 10
    assert usage.server_percent == pytest.approx(burned, abs=8)
    assert usage.machine_percent >= 0.7 * burned
    assert usage.memory_bytes > 1_000_000


def test_roles_come_from_the_pids_that_the_server_names(burner):
    with Sampler(burner.pid, {"http": [], "workers": [{"pid": burner.pid}]}, None) as sampler:
        opened = time.monotonic()
        time.sleep(1)
        closed = time.monotonic()
    roles = sampler.usage(opened, closed).role_percent
    assert roles["workers"] > 10
    assert roles["http"] == roles["queue"] == 0


def test_a_process_that_ends_keeps_what_it_used(burner):
    with Sampler(burner.pid, None, None) as sampler:
        opened = time.monotonic()
        time.sleep(0.8)
        burner.kill()
        time.sleep(0.8)
        closed = time.monotonic()
    assert sampler.usage(opened, closed).server_percent > 5


def test_a_remote_server_has_no_cpu_here():
    with Sampler(None, None, None) as sampler:
        opened = time.monotonic()
        time.sleep(0.3)
    usage = sampler.usage(opened, time.monotonic())
    assert usage.server_percent is None
    assert usage.role_percent is None
    assert usage.machine_percent is not None


def test_gpu_readings_are_averaged_and_missing_ones_stay_missing():
    readings = [GpuReading(40.0, 10, 100.0, 5.0), GpuReading(60.0, 30, None, 9.0)]
    usage = gpu_usage(readings)
    assert usage == {"gpu_percent": 50.0, "gpu_memory_bytes": 30, "gpu_power_w": 100.0}
    assert set(gpu_usage([]).values()) == {None}


class Meter:
    """A GPU that draws 100 W, by its energy counter."""

    names: ClassVar = ["a card"]

    def read(self) -> GpuReading:
        return GpuReading(None, None, None, 100 * time.monotonic())


def test_energy_is_that_of_the_window_and_not_of_the_samples_inside():
    with Sampler(None, None, Meter()) as sampler:
        time.sleep(0.7)
    opened = sampler.samples[0].moment + 0.1
    assert sampler.usage(opened, opened + 0.5).gpu_energy_j == pytest.approx(50, rel=0.1)
    assert Sampler(None, None, None).energy_j(0, 1) is None
    del sampler.samples[1:]
    assert sampler.energy_j(opened, opened + 0.5) is None


def without_nvml() -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


def test_without_a_gpu_there_is_no_reader(monkeypatch):
    monkeypatch.setattr(pynvml, "nvmlInit", without_nvml)
    monkeypatch.setattr(GPUtil, "getGPUs", lambda: [])
    assert gpu_reader() is None


def test_gputil_is_the_fallback_and_its_nan_is_missing(monkeypatch):
    card = SimpleNamespace(name="a card", load=math.nan, memoryUsed=2.0)
    monkeypatch.setattr(pynvml, "nvmlInit", without_nvml)
    monkeypatch.setattr(GPUtil, "getGPUs", lambda: [card])
    reader = gpu_reader()
    assert reader.names == ["a card"]
    assert reader.read() == GpuReading(None, 2 << 20, None, None)
