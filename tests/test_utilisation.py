"""Utilisation against processes that burn known CPU, and GPUs that tell what they like."""

import math
import subprocess
import sys
import time
from types import SimpleNamespace

import GPUtil
import psutil
import pynvml
import pytest

from harness.measure.gpu import GpuReading, gpu_reader
from harness.measure.utilisation import (
    Meter,
    ProcessTree,
    Reading,
    gpu_usage,
    process_cpu_s,
    usage_between,
)

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


def test_cpu_is_what_the_processes_burned_to_less_than_a_tick(burner):
    meter, tree = Meter(None), ProcessTree(burner.pid, None)
    first, before = meter.read(tree), cpu_s(burner.pid)
    time.sleep(2)
    last, after = meter.read(tree), cpu_s(burner.pid)
    usage = usage_between(first, last, [])
    assert sum(usage.role_cpu_s.values()) == pytest.approx(after - before, abs=0.05)
    assert usage.seconds == pytest.approx(2, rel=0.5)
    assert usage.machine_percent >= 0.7 * 100 * (after - before) / usage.seconds
    memory = tree.memory()["queue"]
    assert memory.processes == 1
    assert memory.private_bytes > 1_000_000
    assert memory.proportional_bytes >= memory.private_bytes
    assert memory.gpu_bytes is None
    assert tree.memory({burner.pid: 7})["queue"].gpu_bytes == 7
    assert tree.memory({})["queue"].gpu_bytes == 0
    fine = process_cpu_s(psutil.Process(burner.pid))
    assert fine * 1e9 == pytest.approx(round(fine * 1e9))
    assert fine * 100 != round(fine * 100)  # no multiple of ten milliseconds


def test_roles_come_from_the_pids_that_the_server_names(burner):
    stats = {"http": [], "workers": [{"pid": burner.pid}]}
    meter, tree = Meter(None), ProcessTree(burner.pid, stats)
    first = meter.read(tree)
    time.sleep(1)
    usage = usage_between(first, meter.read(tree), [])
    assert usage.role_cpu_s["workers"] > 0.1
    assert usage.role_cpu_s["http"] == usage.role_cpu_s["queue"] == 0


def test_a_process_that_has_ended_is_no_error(burner):
    tree = ProcessTree(burner.pid, None)
    burner.kill()
    burner.wait()
    assert sum(tree.cpu_s().values()) == 0
    assert tree.memory() == {}


def test_a_remote_server_has_no_cpu_here():
    meter = Meter(None)
    first = meter.read(None)
    time.sleep(0.1)
    usage = usage_between(first, meter.read(None), [])
    assert usage.role_cpu_s is None
    assert usage.machine_percent is not None
    assert usage_between(first, first, []).seconds is None


def test_gpu_readings_are_averaged_and_missing_ones_stay_missing():
    readings = [GpuReading(40.0, 10, 80, 100.0, 5.0), GpuReading(60.0, 30, 80, None, 9.0)]
    usage = gpu_usage(readings)
    assert usage == {"gpu_percent": 50.0, "gpu_memory_bytes": 30, "gpu_power_w": 100.0}
    assert set(gpu_usage([]).values()) == {None}


def test_the_gpu_is_sampled_while_a_window_lasts():
    reader = SimpleNamespace(names=["a card"], read=lambda: GpuReading(70.0, 5, 80, 90.0, 1.0))
    with Meter(reader).gpu_samples() as samples:
        time.sleep(0.35)
    assert len(samples) >= 1
    with Meter(None).gpu_samples() as none:
        pass
    assert none == []


def test_energy_is_what_was_drawn_between_the_readings():
    def reading(moment: float, energy_j: float | None) -> Reading:
        return Reading(moment, moment, 0.0, 0.0, None, GpuReading(None, None, None, None, energy_j))

    assert usage_between(reading(0, 10.0), reading(2, 210.0), []).gpu_energy_j == 200.0
    assert usage_between(reading(0, None), reading(2, 210.0), []).gpu_energy_j is None


def test_a_clock_on_the_wall_that_runs_ahead_means_that_the_machine_slept():
    def slept(wall_s: float) -> float:
        first = Reading(1.0, 100.0, 0.0, 0.0, None, None)
        return usage_between(first, Reading(3.0, wall_s, 0.0, 0.0, None, None), []).suspended_s

    assert (slept(102.0), slept(107.5), slept(90.0)) == (0.0, 5.5, 0.0)


def without_nvml() -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


def test_without_a_gpu_there_is_no_reader(monkeypatch):
    monkeypatch.setattr(pynvml, "nvmlInit", without_nvml)
    monkeypatch.setattr(GPUtil, "getGPUs", lambda: [])
    assert gpu_reader() is None


def test_gputil_is_the_fallback_and_its_nan_is_missing(monkeypatch):
    card = SimpleNamespace(name="a card", load=math.nan, memoryUsed=2.0, memoryTotal=8.0)
    monkeypatch.setattr(pynvml, "nvmlInit", without_nvml)
    monkeypatch.setattr(GPUtil, "getGPUs", lambda: [card])
    reader = gpu_reader()
    assert reader.names == ["a card"]
    assert reader.read() == GpuReading(None, 2 << 20, 8 << 20, None, None)
