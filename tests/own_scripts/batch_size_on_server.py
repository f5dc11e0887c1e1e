# written for an old LitServe: the batch size is an argument of LitServer, and
# batch/unbatch are the default ones
import litserve as ls
import numpy as np


class OldAPI(ls.LitAPI):
    def setup(self, device):
        self.scale = 10

    def decode_request(self, request):
        return np.array([request["input"]])

    def predict(self, x):
        # x has one row per request
        return x * self.scale

    def encode_response(self, output):
        return {"output": int(output[0])}


if __name__ == "__main__":
    server = ls.LitServer(OldAPI(), "cpu", max_batch_size=4, batch_timeout=0.05)
    server.run(port="8001", host="0.0.0.0")
