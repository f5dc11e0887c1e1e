"""Tests in several processes (`pytest -n 2`): which stay together, which run alone, which share
a server.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers import LastServer, server_named

MACHINE, TURNSTILE = Path(__file__), Path(__file__).parent  # locked as they are: nothing is left
HELD = pytest.StashKey[ExitStack]()  # what the test before has locked for this one
LAST = LastServer()

# Two tests at once share the cores: two threads of a toy model, each waiting for the other to get
# a core, took 10 to 20 times as long as one, in CPU seconds too. Set before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where it is set, nobody would see that what a killed process has printed is lost.
os.environ.pop("PYTHONUNBUFFERED", None)


@contextmanager
def locked(path: Path, kind: int) -> Iterator[None]:
    """A lock, `fcntl.LOCK_EX` or `LOCK_SH`, that no process which is forked meanwhile keeps."""
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, kind)
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)


def is_alone(item: pytest.Item | None) -> bool:
    return item is not None and item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """A test that is marked `alone` waits for the other processes' tests to end, and they for it
    and for those after it that are marked too.

    Its fixtures are set up alone as well, a whole run that a module shares included.
    """
    with item.stash.get(HELD, ExitStack()) as held:
        if "PYTEST_XDIST_WORKER" in os.environ and HELD not in item.stash:
            kind = fcntl.LOCK_EX if is_alone(item) else fcntl.LOCK_SH
            with locked(TURNSTILE, fcntl.LOCK_EX):  # who comes after one that waits, waits too
                held.enter_context(locked(MACHINE, kind))
        result = yield
        following = nextitem and server_named(nextitem.nodeid)
        if "PYTEST_XDIST_WORKER" in os.environ and server_named(item.nodeid) != following:
            LAST.close()  # all its tests have come together
        if is_alone(item) and is_alone(nextitem):
            nextitem.stash[HELD] = held.pop_all()
        return result


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that ask the same server (tests.servers) go to one process together, and so do the
    others of a file that launches something for all its tests, the largest groups first; all other
    tests go one by one to whichever process is free.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            shares = 'fixture(scope="module")' in (config.rootpath / file).read_text()
            return server_named(nodeid) or (file if shares else nodeid)

    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a server script compiles is there for all tests, and nothing of earlier days."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        yield


@pytest.fixture(scope="session")
def shared_server() -> Iterator[LastServer]:
    """Takes what `running_server` takes."""
    yield LAST
    LAST.close()
