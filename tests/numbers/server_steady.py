"""Steady: answers with the number it was sent, one request at a time."""

import time

import litserve
from fastapi import HTTPException

from harness.serving.serve import serve


class SteadyAPI(litserve.LitAPI):
    """{"n": 3} in, {"n": 3} out; {"sleep_s": 1} is answered a second later."""

    def decode_request(self, request: dict) -> dict:
        if "n" not in request:
            raise HTTPException(400, 'the request needs "n"')
        return request

    def predict(self, request: dict) -> int:
        time.sleep(request.get("sleep_s", 0))
        return request["n"]

    def encode_response(self, number: int) -> dict:
        return {"n": number}


if __name__ == "__main__":
    serve(SteadyAPI(), max_concurrency=4)
