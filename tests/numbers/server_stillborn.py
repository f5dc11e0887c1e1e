"""Stillborn: its model cannot be loaded."""

from harness.serving.serve import serve
from tests.numbers.server_steady import SteadyAPI


class StillbornAPI(SteadyAPI):
    """Fails in setup."""

    def setup(self, device: str) -> None:
        raise RuntimeError(f"no model for {device}")


if __name__ == "__main__":
    serve(StillbornAPI())
