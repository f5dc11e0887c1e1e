"""A module in a process of its own: call its functions here, leave its imports over there."""

import contextlib
import importlib
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from harness.process.guardian import guarded

RESULT, ERROR, NOTICE, HELD = "result", "error", "notice", "held"  # until it was heard
END_LIMIT_S = 5

notify: Callable[[Any, bool], None] | None = None  # in the process, while a function is called


class ProcessDiedError(RuntimeError):
    """The process ended while it was asked something; the message says what and how it ended."""


class ModuleProcess:
    """Calls functions of a module, one at a time, in one process that keeps what they keep.

    Args:
        module: its importable name.
        environment: variables set before the module is imported.
    """

    def __init__(self, module: str, environment: dict[str, str] | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self.module, self.calls, self.busy = module, 0, False
        self.pipe, theirs = context.Pipe()
        hearing, self.heard = context.Pipe(duplex=False)
        arguments = module, theirs, hearing, environment or {}
        self.process = context.Process(target=answer_calls, args=arguments, daemon=True)
        self.process.start()
        self.guard = contextlib.ExitStack()
        self.guard.enter_context(guarded(self.process.pid))
        theirs.close()  # else a dead process would leave this side waiting for ever
        hearing.close()

    def __call__(
        self,
        function: str,
        *arguments: Any,
        timeout_s: float | None = None,
        on_notice: Callable[[Any], None] = lambda _: None,
    ) -> Any:
        """What the function of that name returns; what it raises is raised here.

        Args:
            timeout_s: how long to wait for the next sign of life; None for as long as it takes.
            on_notice: called with what the function gives to `notify_caller`, whenever it does.

        Raises ProcessDiedError if the process ends meanwhile, TimeoutError if it takes too long.
        """
        call = f"{self.module}.{function}"
        self.calls, self.busy = self.calls + 1, True
        with self.death_noticed(call):
            self.pipe.send((self.calls, function, arguments))
        while True:
            with self.death_noticed(call):
                if not wait([self.pipe, self.process.sentinel], timeout_s):
                    raise TimeoutError(f"{call} gave no answer in {timeout_s:g} s")
                number, kind, value = self.pipe.recv()  # even if the process has ended since
            is_of_this_call = number == self.calls  # else of one that was given up
            if is_of_this_call and kind in (RESULT, ERROR):
                self.busy = False
                if kind == ERROR:
                    raise value
                return value
            try:
                if is_of_this_call:
                    on_notice(value)
            finally:
                if kind == HELD:
                    with contextlib.suppress(OSError):  # it has died: the next look tells
                        self.heard.send(number)

    @contextlib.contextmanager
    def death_noticed(self, call: str) -> Iterator[None]:
        """Raise ProcessDiedError where the pipe tells that the process has ended."""
        try:
            yield
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self.process.join()
            code = self.process.exitcode
            raise ProcessDiedError(f"{call}: its process ended with {code}") from error

    def close(self) -> None:
        """End the process: one that is idle goes in peace and cleans up, a busy one is killed."""
        self.pipe.close()
        self.heard.close()
        self.process.join(0 if self.busy else END_LIMIT_S)
        self.process.kill()
        self.process.join()
        self.guard.close()

    def __enter__(self) -> "ModuleProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LastingProcess:
    """A ModuleProcess that is replaced when it dies or is silent for too long; what it was asked is
    then asked once more.
    """

    def __init__(self, module: str, environment: dict[str, str] | None = None) -> None:
        self.start = partial(ModuleProcess, module, environment)
        self.process, self.is_new = self.start(), False
        self.told: list[tuple[Any, ...]] = []  # functions and arguments

    def __call__(self, function: str, *arguments: Any, **how: Any) -> Any:
        """As ModuleProcess has it; raises ProcessDiedError or TimeoutError if a second process
        fails as well, and starts another for the next call.
        """
        try:
            return self.asked(function, *arguments, **how)
        except (ProcessDiedError, TimeoutError):
            self.replace()
        try:
            return self.asked(function, *arguments, **how)
        except (ProcessDiedError, TimeoutError):
            self.replace()
            raise

    def replace(self) -> None:
        """Another process in place of one that died or is silent."""
        self.close()
        self.process, self.is_new = self.start(), True

    def tell(self, function: str, *arguments: Any) -> None:
        """Call a function now, and first of all in every process that replaces this one."""
        self(function, *arguments)
        self.told.append((function, *arguments))

    def asked(self, function: str, *arguments: Any, **how: Any) -> Any:
        """What the process of now answers."""
        for earlier, *theirs in self.told if self.is_new else ():
            self.process(earlier, *theirs)
        self.is_new = False
        return self.process(function, *arguments, **how)

    def close(self) -> None:
        """End the process, as ModuleProcess does."""
        self.process.close()

    def __enter__(self) -> "LastingProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def notify_caller(value: Any, hold: bool = False) -> None:
    """Tell the process that called the running function how far it has got; `hold` until that has
    done what it does about it. Without such a process, nothing.
    """
    if notify is not None:
        notify(value, hold)


def send_notice(pipe: Connection, hearing: Connection, number: int, value: Any, hold: bool) -> None:
    """Send what the function of call `number` tells while it runs."""
    pipe.send((number, HELD if hold else NOTICE, value))
    if hold:
        hearing.recv()


def answer_calls(
    module: str, pipe: Connection, hearing: Connection, environment: dict[str, str]
) -> None:
    """Answer calls until the caller is gone."""
    global notify
    # a group of its own: signals to the caller's are for the caller, who ends this process, or else
    # the guardian does
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            number, function, arguments = pipe.recv()
            notify = partial(send_notice, pipe, hearing, number)
            try:
                kind, value = RESULT, getattr(importlib.import_module(module), function)(*arguments)
            except Exception as error:
                error.add_note("".join(traceback.format_tb(error.__traceback__)))
                kind, value = ERROR, error
            try:
                pipe.send((number, kind, value))
            except (TypeError, AttributeError, pickle.PicklingError) as error:
                reason = RuntimeError(f"{module}.{function}: {value!r} cannot be sent: {error}")
                pipe.send((number, ERROR, reason))
