# waits 20 ms per batch, however many requests there are in it: batches pay off
import time

import litserve as ls


class BatchSleepingAPI(ls.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["n"]

    def batch(self, inputs):
        return list(inputs)

    def predict(self, numbers):
        time.sleep(0.02)
        return [n * 2 for n in numbers] if isinstance(numbers, list) else numbers * 2

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return {"output": output}


if __name__ == "__main__":
    ls.LitServer(BatchSleepingAPI(batch_timeout=0.005), accelerator="cpu").run(port=8000)
