"""Bounded: how long requests may wait is told; {"n": 3, "sleep_s": 1} is answered a second later.

{"n": 3, "answer_bytes": 1000000} gets an answer of a length that a client has to read.
"""

import argparse
import time

import litserve

from harness.serving.serve import serve
from harness.serving.served_api import ServedAPI


class BoundedAPI(litserve.LitAPI, ServedAPI):
    """{"n": 3} in, {"n": 3} out."""

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--max-wait", type=float, default=30.0)
        parser.add_argument("--max-concurrency", type=int, default=1024)

    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: dict) -> dict:
        return request

    def predict(self, request: dict) -> dict:
        time.sleep(request.get("sleep_s", 0))
        return request

    def encode_response(self, request: dict) -> dict:
        return {"n": request["n"], "filling": "x" * request.get("answer_bytes", 0)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    BoundedAPI.add_flags(parser)
    own, _ = parser.parse_known_args()
    serve(BoundedAPI(), max_concurrency=own.max_concurrency, max_wait_s=own.max_wait)
