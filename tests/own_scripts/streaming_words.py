# streams three words, 5 ms apart
import time

import litserve as ls


class WordsAPI(ls.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["n"]

    def predict(self, n):
        for word in ("one", "two", "three"):
            time.sleep(0.005)
            yield f"{word} {n}\n"

    def encode_response(self, outputs):
        yield from outputs


if __name__ == "__main__":
    ls.LitServer(WordsAPI(stream=True), accelerator="cpu").run(port=8000)
