# streams the number it is sent as four events, 25 ms apart: one answer after the other or, with the
# argument "together", eight at a time
import sys
import time

import litserve as ls


class InTurnAPI(ls.LitAPI):
    def decode_request(self, request):
        return request["n"]

    def predict(self, numbers):
        for _ in range(4):
            time.sleep(0.025)
            yield numbers

    def encode_response(self, outputs):
        for n in outputs:
            yield f"data: {n}\n\n"


class TogetherAPI(InTurnAPI):
    def encode_response(self, outputs):
        for numbers in outputs:
            yield [f"data: {n}\n\n" for n in numbers]


if __name__ == "__main__":
    together = "together" in sys.argv
    size = {"max_batch_size": 8, "batch_timeout": 0.5} if together else {}
    api = (TogetherAPI if together else InTurnAPI)(stream=True, **size)
    ls.LitServer(api, accelerator="cpu").run(port=8000)
