"""A server whose API does nothing: what LitServe costs by itself, and the most it lets through.

    python -m harness.serving.no_op_server --port 8000 --max-batch-size 64 --batch-timeout 0.01

It takes any JSON object at /predict, never looks at it, and always gives the same answer. The
benchmarks launch it set up as each of their variants is.
"""

import argparse
import json
from typing import Any

import litserve

from harness.serving.serve import serve
from harness.serving.served_api import LITSERVES, ServedAPI, loop_named


class NoOpAPI(litserve.LitAPI, ServedAPI):
    """Whatever is asked, the answer is there already."""

    def setup(self, device: str) -> None:
        pass

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--max-batch-size", type=int, default=1, help="(default: %(default)s)")
        add("--batch-timeout", type=float, default=0.0, help="seconds (default: %(default)s)")
        add("--workers-per-device", type=int, default=1, help="(default: %(default)s)")
        add("--loop", default=LITSERVES, help="MODULE:CLASS (default: LitServe's own)")
        add("--answer", type=json.loads, default={}, metavar="JSON", help="(default: {})")
        add("--answer-bytes", type=int, default=0, help="of a string to answer instead")

    def configure(self, options: argparse.Namespace) -> dict[str, Any]:
        self.answer = "x" * options.answer_bytes or options.answer
        return {}

    def decode_request(self, request: dict) -> None:
        pass

    def batch(self, inputs: list) -> list:
        return inputs

    def predict(self, inputs: list | None) -> list | None:
        return inputs

    def unbatch(self, output: list) -> list:
        return output

    def encode_response(self, _output: None) -> Any:
        return self.answer


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    NoOpAPI.add_flags(parser)  # `serve` reads them again, but the API is made from them
    own, _ = parser.parse_known_args()
    api = NoOpAPI(
        max_batch_size=own.max_batch_size,
        batch_timeout=own.batch_timeout,
        loop=loop_named(own.loop),
    )
    serve(api, workers_per_device=own.workers_per_device)


if __name__ == "__main__":
    main()
