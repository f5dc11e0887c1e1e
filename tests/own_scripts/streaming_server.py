import json
import time

import litserve as ls


class StreamAPI(ls.LitAPI):
    def setup(self, device) -> None:
        self.model = lambda x, y: x * y

    def decode_request(self, request):
        return request["input"]

    def predict(self, x):
        for i in range(4):
            time.sleep(0.01)
            yield self.model(i, x)

    def encode_response(self, output):
        for out in output:
            yield json.dumps({"output": out}) + "\n"


if __name__ == "__main__":
    server = ls.LitServer(StreamAPI(stream=True), accelerator="cpu")
    server.run(port=8000)
