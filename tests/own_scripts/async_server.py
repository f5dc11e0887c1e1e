import asyncio

import litserve as ls


class AsyncAPI(ls.LitAPI):
    def setup(self, device):
        self.offset = 100

    async def decode_request(self, request):
        return request["input"]

    async def predict(self, x):
        if x < 0:
            raise ValueError("no negative numbers here")
        await asyncio.sleep(0.1)  # e.g. a database
        return x + self.offset

    async def encode_response(self, output):
        return {"output": output}


if __name__ == "__main__":
    ls.LitServer(AsyncAPI(enable_async=True), accelerator="cpu").run(port=8000)
