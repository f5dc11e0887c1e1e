# several things in one file, chosen by the first argument
import sys
from typing import Annotated

import litserve as ls
from fastapi import Depends, HTTPException, UploadFile
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from litserve.loops.base import LitLoop
from litserve.specs.openai_embedding import OpenAIEmbeddingSpec
from litserve.utils import LitAPIStatus, LoopResponseType
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware


class Point(BaseModel):
    x: int
    y: int = 1


class TypedAPI(ls.LitAPI):
    factor = 2  # class attribute

    def decode_request(self, request: Point):
        if request.x < 0:
            raise HTTPException(418, "x is negative")
        return request

    def predict(self, point):
        self.log("x", point.x)
        return {"sum": self.factor * (point.x + point.y), "device": self.device}


class EmbeddingAPI(ls.LitAPI):
    def predict(self, texts):
        return [[float(len(text)), 1.0] for text in texts]

    def encode_response(self, output):
        return {"embeddings": output}


class SecretAPI(ls.LitAPI):
    def authorize(self, auth: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]):
        if auth.credentials != "open sesame":
            raise HTTPException(status_code=401, detail="Bad token")

    def predict(self, request):
        return request


class UploadAPI(ls.LitAPI):
    def decode_request(self, request: UploadFile):
        return request.file.read()

    def predict(self, data):
        return {"bytes": len(data)}


class BatchedStreamAPI(ls.LitAPI):
    def decode_request(self, request):
        return request["input"]

    def predict(self, batch):
        for i in range(3):
            yield [x + i for x in batch]

    def encode_response(self, outputs):
        for batch in outputs:
            yield [{"output": x} for x in batch]


class AsyncStreamAPI(ls.LitAPI):
    async def predict(self, request):
        for i in range(request["input"]):
            yield {"output": i}

    async def encode_response(self, outputs):
        async for output in outputs:
            yield output


class OwnLoop(LitLoop):
    def run(self, lit_api, device, worker_id, request_queue, transport, status, callback_runner):
        item = self.get_request(request_queue, timeout=1)
        if item is not None:
            queue_id, uid, _, payload = item
            answer = {"mine": lit_api.special(payload)}
            kind = LoopResponseType.REGULAR
            self.put_response(transport, queue_id, uid, answer, LitAPIStatus.OK, kind)


class OwnLoopAPI(ls.LitAPI):
    def special(self, payload):
        return payload["input"]


class PrintingCallback(ls.Callback):
    def on_after_setup(self, lit_api):
        print("CALLBACK: set up")

    def on_before_predict(self, lit_api):
        print("CALLBACK: before predict")


class PrintingLogger(ls.Logger):
    def process(self, key, value):
        print("LOGGED", key, value, flush=True)


kinds = {
    "typed": lambda: TypedAPI(),
    "embedding": lambda: EmbeddingAPI(spec=OpenAIEmbeddingSpec()),
    "secret": lambda: SecretAPI(),
    "upload": lambda: UploadAPI(),
    "batched_stream": lambda: BatchedStreamAPI(stream=True, max_batch_size=4, batch_timeout=0.05),
    "async_stream": lambda: AsyncStreamAPI(stream=True, enable_async=True),
    "own_loop": lambda: OwnLoopAPI(loop=OwnLoop()),
}

if __name__ == "__main__":
    server = ls.LitServer(
        kinds[sys.argv[1]](),
        accelerator="cpu",
        callbacks=[PrintingCallback()],
        loggers=[PrintingLogger()],
        middlewares=[(CORSMiddleware, {"allow_origins": ["https://example.org"]})],
        model_metadata={"name": "kinds"},
        healthcheck_path="/alive",
    )
    server.run(port=8000, log_level="warning", access_log=False)
