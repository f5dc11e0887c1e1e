# waits 20 ms per request and holds no lock: workers pay off
import time

import litserve as ls


class SleepingAPI(ls.LitAPI):
    def setup(self, device):
        print("ready on", device)

    def decode_request(self, request):
        return request["n"]

    def predict(self, n):
        time.sleep(0.02)
        return n * 2

    def encode_response(self, output):
        return {"output": output}


if __name__ == "__main__":
    ls.LitServer(SleepingAPI(), accelerator="cpu").run(port=8000)
