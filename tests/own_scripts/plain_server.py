# server.py, more or less the first example of LitServe's README
import litserve as ls


class SimpleLitAPI(ls.LitAPI):
    def setup(self, device):
        # Set up the model, so it can be called in `predict`.
        print("loading two models on", device)
        self.model1 = lambda x: x**2
        self.model2 = lambda x: x**3

    def decode_request(self, request):
        # get inputs from the request
        return request["input"]

    def predict(self, x):
        # pass the input to both models
        a = self.model1(x)
        b = self.model2(x)
        return {"output": a + b}

    def encode_response(self, output):
        # add the output to the response
        return output


if __name__ == "__main__":
    api = SimpleLitAPI()
    server = ls.LitServer(api, accelerator="auto", workers_per_device=2)
    print("starting on port 8000")
    server.run(port=8000)
