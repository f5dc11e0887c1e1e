import litserve as ls


class EchoAPI(ls.LitAPI):
    def predict(self, request):
        return request


# quick and dirty
server = ls.LitServer(EchoAPI(), accelerator="cpu")
server.run(port=8000)
