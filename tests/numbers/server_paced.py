"""Paced: every answer takes 20 ms of the one worker, for comparisons whose outcome is known."""

import time

import litserve

from harness.serving.serve import serve


class PacedAPI(litserve.LitAPI):
    """Repeats the number it is sent."""

    pause_s = 0.02

    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: dict) -> int:
        return request["n"]

    def predict(self, number: int) -> int:
        time.sleep(self.pause_s)
        return number

    def encode_response(self, number: int) -> dict:
        return {"n": number}


if __name__ == "__main__":
    serve(PacedAPI())
