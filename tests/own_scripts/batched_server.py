import time

import litserve as ls
import numpy as np


class BatchedAPI(ls.LitAPI):
    def setup(self, device):
        self.weights = np.arange(4.0)

    def decode_request(self, request):
        return np.asarray(request["input"], dtype=float)

    def batch(self, inputs):
        print("batch of", len(inputs))
        return np.stack(inputs)

    def predict(self, batch):
        time.sleep(0.02)  # the "model"
        return batch @ self.weights

    def unbatch(self, output):
        return output.tolist()

    def encode_response(self, output):
        return {"output": output}


if __name__ == "__main__":
    api = BatchedAPI(max_batch_size=8, batch_timeout=0.05)
    server = ls.LitServer(api, accelerator="cpu", timeout=60)
    server.run(port=8000, num_api_servers=4)
