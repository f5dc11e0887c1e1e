"""Whether one more server has room in memory: by what those before it took."""

import pytest

from harness.measure import room as rooms
from harness.measure.gpu import GpuReading
from harness.measure.room import Memory, Room, lacked_memory


class Machine:
    """Memory that servers take: 100 of the host's, 40 of the GPU's."""

    def __init__(self) -> None:
        self.left = Memory(100, 40)
        self.room = Room(lambda: self.left, Memory(10, 0))

    def launch(self, name: str, host: int, gpu: int = 0) -> None:
        before = self.left
        self.left = Memory(self.left.host - host, self.left.gpu - gpu)
        self.room.note(name, before)


def test_what_was_never_launched_is_taken_for_the_largest_and_then_for_what_it_took():
    machine = Machine()
    assert machine.room.has_room("small")  # nothing is known yet
    machine.launch("small", 10)
    machine.launch("large", 40)
    assert not machine.room.has_room("new")  # 50 left, 10 of them kept, 48 wanted
    assert machine.room.has_room("small")
    assert machine.room.has_room("small", "small", "small")
    assert not machine.room.has_room("small", "large")


def test_the_gpu_counts_by_itself():
    machine = Machine()
    machine.launch("model", 5, gpu=25)
    assert not machine.room.has_room("model")
    machine.left = Memory(90, 30)
    assert machine.room.has_room("model")


def test_the_machine_tells_what_is_free(tmp_path, monkeypatch):
    class Gpu:
        def read(self) -> GpuReading:
            return GpuReading(None, 30, 80, None, None)

    monkeypatch.setattr(rooms, "control_groups", lambda _: [tmp_path])
    host, gpu = rooms.room(Gpu()).free()
    assert host > 0
    assert gpu == 50
    for name, text in {"max": "1000", "current": "700", "stat": "inactive_file 50\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert rooms.room(None).free() == Memory(350, 0)
    (tmp_path / "memory.max").write_text("max")
    assert rooms.room(None).free().host > 1000


@pytest.mark.parametrize(
    ("reason", "memory"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", True),
        ("m ended with -9 before it was ready", True),
        ("m ended with -15 before it was ready", False),
        ("m ended with 1 before it was ready; its last lines:\n    no model for cpu", False),
    ],
)
def test_want_of_memory_is_known_by_its_words(reason, memory):
    assert lacked_memory(reason) is memory
