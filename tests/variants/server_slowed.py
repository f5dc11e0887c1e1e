"""Slowed: paced, and 15 % slower on purpose: 20 ms and the 2 to 3 ms that LitServe itself takes become 15 % more."""

from harness.serving.serve import serve
from tests.variants.server_paced import PacedAPI


class SlowedAPI(PacedAPI):
    """Paced with a longer pause."""

    pause_s = 0.02 + 0.15 * 0.0225


if __name__ == "__main__":
    serve(SlowedAPI())
