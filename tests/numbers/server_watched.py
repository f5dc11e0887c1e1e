"""Watched: steady, but slow to load if asked, and its watch calls a process hanging after 4 s."""

import argparse
import time
from typing import Any

from fastapi.responses import JSONResponse

from harness.serving import watch
from harness.serving.serve import serve
from harness.serving.served_api import ServedAPI
from tests.numbers.server_steady import SteadyAPI

HANGS_S = 30


class WatchedAPI(SteadyAPI, ServedAPI):
    """Answers as steady does; what is no JSON object makes its HTTP process hang."""

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--load-s", type=float, default=0.0, help="seconds in setup")

    def configure(self, options: argparse.Namespace) -> dict[str, Any]:
        watch.SILENT_S, self.load_s = 4.0, options.load_s
        return {}

    def setup(self, device: str) -> None:
        print("loading", flush=True)
        time.sleep(self.load_s)

    def refusal(self, status: int, *arguments: Any) -> JSONResponse:
        if status == 422:
            time.sleep(HANGS_S)
        return super().refusal(status, *arguments)


if __name__ == "__main__":
    serve(WatchedAPI())
