"""Slowed: paced, and 15 % slower on purpose: the 20 ms and the 2 to 3 ms that LitServe takes."""

from harness.serving.serve import serve
from tests.numbers.server_paced import PacedAPI


class SlowedAPI(PacedAPI):
    """Paced with a longer pause."""

    pause_s = 0.02 + 0.15 * 0.0225


if __name__ == "__main__":
    serve(SlowedAPI())
