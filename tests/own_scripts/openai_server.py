import litserve as ls


class ParrotAPI(ls.LitAPI):
    def setup(self, device):
        self.model = None

    def predict(self, request):
        # `request` is the ChatCompletionRequest
        for word in request.messages[-1].content.split():
            yield word + " "


if __name__ == "__main__":
    server = ls.LitServer(ParrotAPI(spec=ls.OpenAISpec()), accelerator="cpu")
    server.run(port=8000)
