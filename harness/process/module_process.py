"""A module in a process of its own: its functions are called from here, its imports and memory stay over there."""

import importlib
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from typing import Any


class ModuleProcess:
    """Calls functions of a module, one at a time, in one process that keeps what they keep.

    Args:
        module: its importable name.
        environment: variables set before the module is imported.
    """

    def __init__(self, module: str, environment: dict[str, str] | None = None) -> None:
        self.module = module
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), prepared, (environment or {},))

    def __call__(self, function: str, *arguments: Any) -> Any:
        """What the function of that name returns; what it raises is raised here."""
        return self.pool.submit(call, self.module, function, arguments).result()

    def close(self) -> None:
        """End the process."""
        self.pool.shutdown()


def prepared(environment: dict[str, str]) -> None:
    """Make ready a new process: a Ctrl-C is for the one that asked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)


def call(module: str, function: str, arguments: tuple) -> Any:
    """Call a function of a module that only this process imports."""
    return getattr(importlib.import_module(module), function)(*arguments)
