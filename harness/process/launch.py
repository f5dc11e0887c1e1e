"""Launch a server script on a free port, prove that it is the one that answers, end its tree."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import requests

from harness.process.control import (
    REFUSED_STATUSES,
    control_session,
    key_refusal,
    on_this_machine,
)
from harness.process.groups import end_group, uninterrupted
from harness.process.guardian import guarded
from harness.process.limits import short_temporary_folder
from harness.process.module_command import (
    CACHE,
    ROOT,
    compiler_cache,
    module_command,
    module_environment,
)

STARTUP_LIMIT_S = 600  # a compiled language model takes minutes
REPLY_LIMIT_S = 5
TAIL_LINES = 40  # a dying LitServe prints tracebacks of all its processes after the reason


class ServerFailedError(Exception):
    """A server did not come up, ended, or is not the one launched; the message says why."""


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes:
        url: scheme, host and port.
        run_id: what its /info must keep saying; None if it was not launched here and has none.
        pid: the LitServe parent process; None if it does not run on this machine.
        startup_s: from launching the process to the first 200 of /health; None if it was not
            launched here.
        info: the model metadata of /info: variant, run_id, server options.
        log: its output; None if it was not launched here.
    """

    url: str
    run_id: str | None
    pid: int | None
    startup_s: float | None
    info: dict[str, Any]
    log: Path | None

    def stats(self) -> dict[str, Any] | None:
        """Running totals of its HTTP processes and workers (harness.serving.counters), or None.

        Raises ServerFailedError if another server answers by now, or none.
        """
        try:
            reply = control_session().get(f"{self.url}/stats", timeout=REPLY_LIMIT_S)
        except requests.RequestException as error:
            raise ServerFailedError(
                f"{self.url} no longer answers: {error}{self.tail()}"
            ) from error
        if self.run_id is None and reply.status_code == 404:
            return None
        stats = parsed_object(reply)
        answered = stats.get("run_id")
        if answered != self.run_id:
            raise ServerFailedError(
                f"another server answers at {self.url}: run id {answered}, not {self.run_id}"
                if answered
                else f"the server at {self.url} tells no run id in /stats: it cannot be measured"
            )
        return stats

    def freeze(self) -> None:
        """Stop its whole process group: it uses no CPU and answers nobody."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on. ServerFailedError if it is gone."""
        try:
            os.killpg(self.pid, signal.SIGCONT)
        except ProcessLookupError as error:
            raise ServerFailedError(f"the server has ended{self.tail()}") from error

    def tail(self) -> str:
        """The last lines of its output, introduced; empty if there are none."""
        return log_tail(self.log) if self.log else ""


def log_tail(log: Path) -> str:
    """The last lines of a log file, as the end of an error message."""
    lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    return (
        "; its last lines:\n" + "\n".join(f"    {line}" for line in lines)
        if lines
        else "; it printed nothing"
    )


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def parsed_object(reply: requests.Response) -> dict[str, Any]:
    """The JSON object that an answer holds; empty if it holds none, or is an error."""
    with contextlib.suppress(ValueError):
        parsed = reply.json() if reply.ok else None
        return parsed if isinstance(parsed, dict) else {}
    return {}


def server_environment(module: str, temporary: str, root: Path | None) -> dict[str, str]:
    """The environment of a server of this checkout, or of the one in `root`, which then keeps what
    it compiles there.
    """
    compiled = compiler_cache(module, root / ".compiled" if root else os.environ.get(CACHE))
    # what a process has printed is in the log at once: one that is killed has no last words else
    own = {"TMPDIR": temporary, "PYTHONUNBUFFERED": "1"}
    return module_environment(root or ROOT) | compiled | own


@dataclass(frozen=True)
class Launch:
    """A server that was started, and may not answer yet.

    Attributes:
        process: the LitServe parent.
        module: the script.
        url, run_id, log: as of the Server that it becomes.
        began: when it was started, monotonic seconds.
    """

    process: subprocess.Popen
    module: str
    url: str
    run_id: str
    log: Path
    began: float

    def ready(self, startup_limit_s: float = STARTUP_LIMIT_S) -> Server:
        """The server, once it answers.

        Raises ServerFailedError if it ends early, is not ready in time, or another server answers
        in its place.
        """
        self.wait_until_ready(self.began + startup_limit_s)
        startup_s, info = time.monotonic() - self.began, model_info(self.url)
        if info.get("run_id") != self.run_id:
            raise ServerFailedError(
                f"another server answers at {self.url}, not the {self.module} launched"
                if "run_id" in info
                else f"what answers at {self.url} tells no run id in /info: whether it is "
                f"the {self.module} launched cannot be proved"
            )
        return Server(self.url, self.run_id, self.process.pid, startup_s, info, self.log)

    def wait_until_ready(self, deadline: float) -> None:
        """Return once /health answers 200; ServerFailedError if the process ends or time is up."""
        while not healthy(self.url):
            if self.process.poll() is not None:
                code = self.process.returncode
                reason = f"{self.module} ended with {code} before it was ready"
                raise ServerFailedError(reason + log_tail(self.log))
            if time.monotonic() > deadline:
                reason = f"{self.module} was not ready in time"
                raise ServerFailedError(reason + log_tail(self.log))
            time.sleep(0.05)


@contextlib.contextmanager
def launched(module: str, *arguments: str, root: Path | None = None) -> Iterator[Launch]:
    """Start `python -m module arguments` on a free port of 127.0.0.1; end it with the `with` block.

    The server is a process group of its own: a terminal's Ctrl-C does not reach it before its turn,
    and stopping reaches all of it. Its output goes to a file, for an unread pipe would block it.
    With a `root`, the checkout of another revision, it runs that one's code.
    """
    run_id, port = uuid.uuid4().hex, free_port()
    folder = short_temporary_folder(below="/server-12345678")
    with tempfile.TemporaryDirectory(prefix="server-", dir=folder) as directory:
        log = Path(directory) / "server.log"
        command = [*module_command(module), "--port", str(port), "--run-id", run_id]
        with log.open("w") as output:
            began = time.monotonic()
            process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # a killed queue manager leaves its socket behind
                env=server_environment(module, directory, root),
            )
        with guarded(process.pid):
            try:
                yield Launch(process, module, f"http://127.0.0.1:{port}", run_id, log, began)
            finally:
                with uninterrupted():
                    end_group(process.pid)
                    process.wait()


@contextlib.contextmanager
def running_server(
    module: str,
    *arguments: str,
    startup_limit_s: float = STARTUP_LIMIT_S,
    root: Path | None = None,
) -> Iterator[Server]:
    """A server that was launched and is ready, for as long as the `with` block lasts; raises what
    `Launch.ready` raises.
    """
    with launched(module, *arguments, root=root) as launch:
        yield launch.ready(startup_limit_s)


def healthy(url: str) -> bool:
    """Whether /health answers 200 within seconds; ServerFailedError if it wants another key."""
    with contextlib.suppress(requests.RequestException):
        status = control_session().get(f"{url}/health", timeout=REPLY_LIMIT_S).status_code
        if status in REFUSED_STATUSES:
            raise ServerFailedError(key_refusal(url))
        return status == 200
    return False


def model_info(url: str) -> dict[str, Any]:
    """The model metadata in /info; empty if the server offers none."""
    with contextlib.suppress(requests.RequestException, ValueError):
        reply = control_session().get(f"{url}/info", timeout=REPLY_LIMIT_S).json()
        return (reply.get("model") or {}) if isinstance(reply, dict) else {}
    return {}


def attached_server(url: str) -> Server:
    """A server that already runs, here or elsewhere; ServerFailedError if it does not answer
    /health with 200.
    """
    url = url.rstrip("/")
    if not healthy(url):
        raise ServerFailedError(f"{url}/health does not answer 200; is the server up?")
    info = model_info(url)
    server = Server(url, info.get("run_id"), None, None, info, None)
    return replace(server, pid=parent_here(server))


def parent_here(server: Server) -> int | None:
    """The LitServe parent of a server that was started by somebody else on this machine; None if it
    is not here.

    Its workers and HTTP processes name their pids; the parent is known only if it is the same for
    all of them.
    """
    stats = server.stats() if on_this_machine(server.url) else None
    if not stats:
        return None
    try:
        pids = [row["pid"] for row in stats["http"] + stats["workers"]]
        parents = {psutil.Process(pid).ppid() for pid in pids}
        # of workers that were forked by a child of the parent, that child
        parents -= {pid for pid in parents if psutil.Process(pid).ppid() in parents}
    except psutil.Error:  # pids of another machine, or of a container, behind a forwarded port
        return None
    return parents.pop() if len(parents) == 1 and 1 not in parents else None
