import litserve as ls


class Doubler(ls.LitAPI):
    def predict(self, request):
        return {"doubled": request["input"] * 2}


class Lister(ls.LitAPI):
    def predict(self, batch):
        return [{"listed": [x["input"]]} for x in batch]


if __name__ == "__main__":
    doubler = Doubler(api_path="/double")
    lister = Lister(api_path="/list", max_batch_size=4, batch_timeout=0.01)
    server = ls.LitServer([doubler, lister], accelerator="cpu", workers_per_device={"/list": 2})
    server.run(port=8000, generate_client_file=False)
