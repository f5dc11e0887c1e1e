"""Busy: every answer takes a fixed amount of work of the one worker, some 30 ms on one core.

The way through LitServe is little beside it: what it loses of its work it loses of its rate.
"""

import argparse
from typing import Any

import litserve

from harness.serving.serve import serve
from harness.serving.served_api import ServedAPI

ADDITIONS = 900_000


class BusyAPI(litserve.LitAPI, ServedAPI):
    """Repeats the number it is sent; with --loss 10 it does so at 0.9 times the rate."""

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--loss", type=float, default=0.0, help="of the rate, in percent")

    def configure(self, options: argparse.Namespace) -> dict[str, Any]:
        self.additions = round(ADDITIONS / (1 - options.loss / 100))
        return {"loss": options.loss}

    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: dict) -> int:
        return request["n"]

    def predict(self, number: int) -> int:
        total = 0
        for _ in range(self.additions):
            total += number
        return number

    def encode_response(self, number: int) -> dict:
        return {"n": number}


if __name__ == "__main__":
    serve(BusyAPI())
