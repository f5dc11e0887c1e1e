"""The watch: a server that has lost a process says which and ends, or starts its worker again.

LitServe itself watches its workers only, only once they serve (LitServe#532), and looks for what a
dead one had inside it in the parent process, where no request ever is (LitServe#624).
"""

import contextlib
import logging
import multiprocessing.util
import os
import shutil
import signal
import sys
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import litserve
import psutil
from litserve.utils import WorkerSetupStatus

from harness.serving.heart import BEAT_S, Heart, Hearts

STOPPED_S = 3.0
SILENT_S = 10.0  # no single request holds an HTTP process's event loop for a tenth of that
LATE_S = 2 * BEAT_S  # a watch that looks up later was itself frozen, or starved: nobody is judged
SETTLE_S = 0.5  # Ctrl-C in a terminal reaches all at once: who ends before its parent is no loss
HEARD_S = 5.0  # until the HTTP processes have answered what a dead worker had inside


class Patience:
    """For how long symptoms have been seen without a break."""

    def __init__(self) -> None:
        self.since: dict[BaseProcess, float] = {}

    def lasted_s(self, process: BaseProcess, shows: bool, now: float) -> float:
        """Seconds since this process has begun to show the symptom; 0 where it does not."""
        if not shows:
            self.since.pop(process, None)
            return 0.0
        return now - self.since.setdefault(process, now)


class Watch(threading.Thread):
    """Looks after the children of a LitServer once a second, and whenever one of them ends; start
    it before the server is run.

    A process is lost when it ends or stays stopped (SIGSTOP), an HTTP process also when its event
    loop hangs; a worker that computes for minutes, with or without the GIL, is not. What a
    benchmark freezes and thaws stands still together with this thread. If the LitServer restarts
    workers, one that has loaded its model is started again; any other loss ends the whole tree with
    one sentence on stderr and exit code 1. The resource tracker may die: Python replaces it.

    Args:
        api_servers: HTTP processes that the server is run with.
        response_timeout_s: see harness.serving.heart.
    """

    def __init__(
        self, server: litserve.LitServer, api_servers: int, response_timeout_s: float
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self.server = server
        self.posts = [  # in the order of LitServer.inference_workers
            (api, number)
            for api in server.litapi_connector
            for number in range(len(server._inference_workers_config_for_api(api.api_path)))
        ]
        self.hearts = Hearts(api_servers, len(self.posts))
        self.http: list[BaseProcess] = []
        self.stopped, self.silent = Patience(), Patience()
        self.beats: dict[BaseProcess, float] = {}
        self.over = threading.Event()
        self.shut_down = server._perform_graceful_shutdown
        server._start_worker_monitoring = self.watch_http
        server._perform_graceful_shutdown = self.shut_down_in_order
        Heart(server, self.hearts, response_timeout_s)

    def watch_http(self, _manager: Any, processes: dict[int, Any]) -> None:
        """LitServe calls it, in place of its own watch, with the HTTP processes it has started."""
        self.http = [each for each in processes.values() if isinstance(each, BaseProcess)]

    def shut_down_in_order(self, *arguments: Any) -> None:
        """LitServe calls it when it was told to stop, and when it cannot go on."""
        if sys.exc_info()[0] is None:
            self.over.set()
        self.shut_down(*arguments)

    def last_word(self) -> None:
        """Let the watch, if it knows why the server fails, say so and end this process."""
        self.join(2 * (SETTLE_S + BEAT_S))

    def run(self) -> None:
        self.looked = time.monotonic()
        while not self.over.is_set():
            with contextlib.suppress(EOFError, OSError):  # of a queue manager that is about to end
                self.look()

    def look(self) -> None:
        """Wait for a second, or until a process ends, and deal with what is wrong."""
        ended = wait([each.sentinel for each in self.processes()], BEAT_S)
        now = time.monotonic()
        if now - self.looked > LATE_S:
            self.stopped, self.silent = Patience(), Patience()
        self.looked = now
        if ended:
            self.bury()
        else:
            self.examine(now)

    def processes(self) -> dict[BaseProcess, str]:
        """The processes that the server cannot do without, and what each is."""
        manager = self.server.transport_config.manager
        workers = getattr(self.server, "inference_workers", [])
        return (
            ({manager._process: "the queue manager"} if manager else {})
            | {process: f"HTTP process {number}" for number, process in enumerate(self.http)}
            | {process: f"worker {number}" for number, process in enumerate(workers)}
        )

    def bury(self) -> None:
        """Deal with processes that have ended, unless that was an order."""
        if self.over.wait(SETTLE_S):
            return
        dead = [process for process in self.processes() if wait([process.sentinel], 0)]
        first = min(dead, key=exit_code)  # others end because of one that was killed
        self.lost(first, how_it_ended(exit_code(first)))

    def examine(self, now: float) -> None:
        """Deal with processes that are there, but of no use."""
        stopped = {process: is_stopped(process) for process in self.processes()}
        for number, process in enumerate(getattr(self.server, "inference_workers", [])):
            self.hearts.stopped[number] = stopped.get(process, False)
        for process, shows in stopped.items():
            if self.stopped.lasted_s(process, shows, now) >= STOPPED_S:
                self.lost(process, f"has been stopped for {STOPPED_S:g} s")
        for number, process in enumerate(self.http):
            beat = self.hearts.beats[number]
            still, self.beats[process] = beat == self.beats.get(process), beat
            if self.silent.lasted_s(process, still, now) >= SILENT_S:
                self.lost(process, f"has been hanging for {SILENT_S:g} s")

    def lost(self, process: BaseProcess, how: str) -> None:
        """Say which process is lost, and start it again or end the server."""
        sentence = f"{self.processes()[process]} (pid {process.pid}) {how}"
        workers = self.server.inference_workers if self.server.restart_workers else []
        number = workers.index(process) if process in workers else None
        if number is None or not self.has_loaded(number):
            self.end(f"{sentence}; the server ends")
        say(f"{sentence}; it is started again")
        process.kill()  # it may be only stopped
        self.restart(number)

    def has_loaded(self, number: int) -> bool:
        """Whether a worker had loaded its model: one that cannot would be started for ever."""
        return self.server.workers_setup_status[self.status_key(number)] == WorkerSetupStatus.READY

    def status_key(self, number: int) -> str:
        api, worker = self.posts[number]
        return f"{api.api_path.split('/')[-1]}_{worker}"

    def restart(self, number: int) -> None:
        """Start a worker again; /health is 503 from here on until it has loaded its model."""
        api, worker = self.posts[number]
        self.server.workers_setup_status[self.status_key(number)] = WorkerSetupStatus.STARTING
        self.hearts.deaths[worker] += 1
        died = time.monotonic()
        while min(self.hearts.beats) < died and time.monotonic() < died + HEARD_S:
            time.sleep(BEAT_S / 10)  # else requests that the new one takes would be answered, too
        if not self.over.is_set():
            launch = self.server.launch_single_inference_worker
            self.server.inference_workers[number] = launch(api, worker)

    def end(self, sentence: str) -> None:
        """End the whole tree: nobody is left who could wait for one that is gone."""
        try:
            logging.disable()  # LitServe would report every process that ends now
            say(sentence)  # before the port closes, for whoever then asks why
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()
            shutil.rmtree(multiprocessing.util.get_temp_dir(), ignore_errors=True)
        finally:
            os._exit(1)


def say(sentence: str) -> None:
    """Print to stderr, if somebody still has it open."""
    with contextlib.suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)


def exit_code(process: BaseProcess) -> int:
    """What a process that has ended has ended with, negative for a signal."""
    while process.exitcode is None:  # for an instant, while another thread asks for it, too
        time.sleep(0.01)
    return process.exitcode


def how_it_ended(code: int) -> str:
    """As the end of a sentence."""
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by signal {-code} ({signal.strsignal(-code)})"


def is_stopped(process: BaseProcess) -> bool:
    """Whether a signal has stopped a process; one that is traced, asleep or gone is not."""
    try:
        return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False
