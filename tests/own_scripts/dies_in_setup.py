from pathlib import Path

import litserve as ls


class BrokenAPI(ls.LitAPI):
    def setup(self, device):
        print("looking for the weights ...")
        self.weights = Path("/no/such/weights.bin").read_bytes()

    def predict(self, request):
        return request


if __name__ == "__main__":
    server = ls.LitServer(BrokenAPI(), accelerator="cpu")
    server.run(port=8000)
