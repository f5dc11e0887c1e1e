"""Hanging: it takes requests in and answers none of them."""

import time

from harness.serving.serve import serve
from tests.numbers.server_steady import SteadyAPI


class HangingAPI(SteadyAPI):
    """Its worker waits for what never comes."""

    def predict(self, _request: dict) -> int:
        time.sleep(3600)
        return 0


if __name__ == "__main__":
    serve(HangingAPI())
