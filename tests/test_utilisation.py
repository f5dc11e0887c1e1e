"""Utilisation against processes that burn known CPU, and GPUs that tell what they like."""

import math
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import GPUtil
import psutil
import pynvml
import pytest

from harness.measure.clocks import Clocks, disturbance, read_clocks
from harness.measure.gpu import GpuReading, gpu_reader
from harness.measure.machine import machine_record
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
        card = GpuReading(None, None, None, None, energy_j)
        return Reading(Clocks(moment, moment, moment), 0.0, 0.0, None, card)

    assert usage_between(reading(0, 10.0), reading(2, 210.0), []).gpu_energy_j == 200.0
    assert usage_between(reading(0, None), reading(2, 210.0), []).gpu_energy_j is None


@pytest.mark.parametrize(
    ("boot_s", "wall_s", "reason"),
    [
        (52.0, 102.0, None),
        (52.05, 102.05, None),
        (57.5, 107.5, "the machine was suspended for 5.5 s"),
        (52.0, 107.5, "the clock was set by +5.5 s"),
        (52.0, 90.0, "the clock was set by -12.0 s"),
        (57.5, 100.0, "the machine was suspended for 5.5 s"),
        (None, 102.0, None),
        (None, 90.0, "the machine was suspended, or its clock set, by -12.0 s"),
    ],
)
def test_three_clocks_tell_whether_the_machine_slept_or_its_clock_was_set(boot_s, wall_s, reason):
    before = Clocks(1.0, 50.0, 100.0)
    assert disturbance(before, Clocks(3.0, boot_s, wall_s)) == reason


def test_the_clocks_of_this_machine_agree_over_a_moment():
    before = read_clocks()
    time.sleep(0.2)
    assert disturbance(before, read_clocks()) is None


def without_nvml() -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


def test_without_a_gpu_there_is_no_reader(monkeypatch):
    monkeypatch.setattr(pynvml, "nvmlInit", without_nvml)
    monkeypatch.setattr(GPUtil, "getGPUs", lambda: [])
    assert gpu_reader() is None


UUIDS = ["GPU-aaaa1", "GPU-aaaa2", "GPU-bbbb3"]


@pytest.fixture
def three_cards(monkeypatch):
    """A driver with three cards; the environment names none of them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("os.environ", os.environ.copy())  # what is set in it is gone afterwards
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(UUIDS))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: UUIDS[handle])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: f"slice {uuid}")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: f"card {handle}")
    used = {"nvmlDeviceGetPowerUsage": lambda handle: 1000 * (handle + 1)}
    for name in ("TotalEnergyConsumption", "UtilizationRates", "MemoryInfo"):
        used[f"nvmlDeviceGet{name}"] = lambda _: None
    for name, answer in used.items():
        monkeypatch.setattr(pynvml, name, answer)


@pytest.mark.parametrize(
    ("visible", "number"),
    [(None, 0), ("2", 2), ("1,0", 1), ("GPU-bbbb3", 2), ("GPU-aaaa2,GPU-aaaa1", 1), ("GPU-b", 2)],
)
@pytest.mark.usefixtures("three_cards")
def test_the_card_that_the_servers_use_is_read_and_every_process_is_held_to_it(
    monkeypatch, visible, number
):
    if visible is not None:
        monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", visible)
    reader = gpu_reader("cuda")
    assert (reader.uuid, reader.names) == (UUIDS[number], [f"card {number}"])
    assert reader.read().power_w == number + 1
    assert os.environ["CUDA_VISIBLE_DEVICES"] == UUIDS[number]
    assert gpu_reader("auto").uuid == UUIDS[number]  # whenever it is asked again
    assert machine_record(reader)["gpu_uuid"] == UUIDS[number]


@pytest.mark.parametrize("visible", ["", "-1", "3", "GPU-a", "GPU-c", "NoDevFiles"])
@pytest.mark.usefixtures("three_cards")
def test_no_card_is_read_where_none_is_visible(monkeypatch, visible):
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(GPUtil, "getGPUs", lambda: [SimpleNamespace(uuid=uuid) for uuid in UUIDS])
    assert gpu_reader("auto") is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.mark.usefixtures("three_cards")
def test_a_slice_of_a_card_is_read_as_such(monkeypatch):
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "MIG-1234")
    reader = gpu_reader("cuda")
    assert (reader.uuid, reader.handle) == ("MIG-1234", "slice MIG-1234")


@pytest.mark.parametrize("accelerator", ["cpu", "mps"])
@pytest.mark.usefixtures("three_cards")
def test_a_card_that_is_not_used_is_neither_read_nor_recorded(accelerator):
    assert gpu_reader(accelerator) is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert machine_record(None)["gpus"] == []


def test_gputil_is_the_fallback_and_its_nan_is_missing(monkeypatch):
    monkeypatch.setattr("os.environ", {})
    card = SimpleNamespace(
        name="a card", uuid="GPU-1", load=math.nan, memoryUsed=2.0, memoryTotal=8.0
    )
    monkeypatch.setattr(pynvml, "nvmlInit", without_nvml)
    monkeypatch.setattr(GPUtil, "getGPUs", lambda: [card])
    reader = gpu_reader()
    assert reader.names == ["a card"]
    assert reader.read() == GpuReading(None, 2 << 20, 8 << 20, None, None)
