"""Staged: every stage takes 2 ms, and a request may name one that takes 20 ms longer for it."""

import time

import litserve

from harness.serving.serve import serve

STAGE_S, SLOWER_S = 0.002, 0.02


class StagedAPI(litserve.LitAPI):
    """{"n": 3, "slow": "predict"} in, {"n": 3} out."""

    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: dict) -> dict:
        return took("decode", [request])[0]

    def batch(self, requests: list[dict]) -> list[dict]:
        return took("collate", requests)

    def predict(self, requests: list[dict]) -> list[dict]:
        return took("predict", requests)

    def unbatch(self, requests: list[dict]) -> list[dict]:
        return requests

    def encode_response(self, request: dict) -> dict:
        return {"n": took("encode", [request])[0]["n"]}


def took(stage: str, requests: list[dict]) -> list[dict]:
    """The requests, after the time that the stage takes for them."""
    time.sleep(STAGE_S + SLOWER_S * any(request.get("slow") == stage for request in requests))
    return requests


if __name__ == "__main__":
    serve(StagedAPI(max_batch_size=8, batch_timeout=0.005))
