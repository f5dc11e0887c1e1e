"""Dying: its worker is gone after a hundred requests."""

import os

from harness.serving.serve import serve
from tests.numbers.server_steady import SteadyAPI


class DyingAPI(SteadyAPI):
    """Ends its worker without a word, as the kernel does when memory is short."""

    served = 0

    def predict(self, request: dict) -> int:
        self.served += 1
        if self.served > 100:
            print("about to die", flush=True)
            os._exit(9)
        return super().predict(request)


if __name__ == "__main__":
    serve(DyingAPI())
