"""What an API may tell `serve` beyond what LitServe asks of it: metrics, flags, error wording."""

import argparse
import importlib
import sys
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import litserve
from fastapi.responses import JSONResponse
from litserve.loops import LitLoop

LITSERVES = "auto"  # LitServe's word for the loop that it chooses itself


class CannotServeError(Exception):
    """Raised in `setup` where one sentence, the message, says all: no traceback is printed."""


class ServedAPIMeta(type(Protocol), type(litserve.LitAPI)):
    """Protocol and LitAPI each have a metaclass: what inherits from both needs one that is both."""


@runtime_checkable
class ServedAPI(Protocol, metaclass=ServedAPIMeta):
    """The members that `serve` uses. Inherit, and override what differs from these defaults:
    `class MyAPI(litserve.LitAPI, ServedAPI)`. A LitAPI that lacks one of them gets the defaults of
    all.

    Attributes:
        setup_metrics: names of the attributes, all numbers, that `setup` measures; /stats tells
            them, per worker.
        threads_per_worker: CPU threads of a worker's torch; None to share out the cores.
    """

    setup_metrics: tuple[str, ...] = ()
    threads_per_worker: int | None = None

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags of the script's own to those that all server scripts share."""

    def configure(self, _options: argparse.Namespace) -> dict[str, Any]:
        """Take over the flags, before the workers start; returns what /info tells of them."""
        return {}

    def refusal(
        self, status: int, message: str, headers: Mapping[str, str] | None = None
    ) -> JSONResponse:
        """An error of this status, worded as the API's clients expect it; FastAPI's way here."""
        return JSONResponse({"detail": message}, status, headers)


class Defaults(ServedAPI):
    """Stands in for an API that tells nothing."""


def served(api: litserve.LitAPI) -> ServedAPI:
    """What `serve` may ask of this API: itself, or the defaults."""
    return api if isinstance(api, ServedAPI) else Defaults()


def loop_name(api: litserve.LitAPI) -> str:
    """MODULE:CLASS of the loop that the API brings; "auto" if it is one of LitServe's."""
    kind, main = type(api.loop), sys.modules["__main__"].__spec__
    if kind.__module__.startswith("litserve."):
        return LITSERVES
    module = main.name if main and kind.__module__ == "__main__" else kind.__module__
    return f"{module}:{kind.__qualname__}"


def loop_named(name: str) -> LitLoop | str:
    """The loop of that name, as a LitAPI takes it."""
    if name == LITSERVES:
        return name
    module, _, kind = name.partition(":")
    return getattr(importlib.import_module(module), kind)()
