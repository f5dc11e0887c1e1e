"""Baseline: one worker, one request at a time, full precision; every optimisation starts from it.

python mnist_model_benchmarking/server_baseline.py --port 8000
"""

import litserve
import torch
from fastapi import HTTPException
from torch import Tensor

from harness.serving.serve import serve
from harness.serving.served_api import ServedAPI
from mnist_model_benchmarking.images import decode_base64, decode_images
from mnist_model_benchmarking.limits import MAX_IMAGES
from mnist_model_benchmarking.model import SIDE, load_model

WARM_UP_SIZES = (1, 8, 64)


class BaselineAPI(litserve.LitAPI, ServedAPI):
    """{"image": base64} or {"images": [base64, ...]} in,
    {"predictions": [{"digit": 7, "probability": 0.998}, ...]} out.
    """

    dtype = torch.float32
    threads_per_worker = 1  # the model is small: a second one takes more from HTTP than it gives

    def setup(self, device: str) -> None:
        self.device = device
        self.model = load_model(device, self.dtype)
        for size in WARM_UP_SIZES:  # a shape's first call is slower; /health answers after this
            self.probabilities(torch.zeros(size, SIDE * SIDE))

    def decode_request(self, request: dict) -> Tensor:
        """(images, 784) pixels of the request; HTTPException 400 if it cannot be read."""
        try:
            return decode_images([decode_base64(text) for text in encoded_images(request)])
        except ValueError as error:
            raise HTTPException(400, str(error)) from error

    def predict(self, images: Tensor) -> Tensor:
        return self.probabilities(images)

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """(n, 784) pixels, anywhere, to (n, 10) float32 probabilities on the CPU, which waits for
        the device.
        """
        logits = self.model(images.to(device=self.device, dtype=self.dtype))
        return logits.float().softmax(dim=1).cpu()

    def encode_response(self, probabilities: Tensor) -> dict:
        best = probabilities.max(dim=1)
        answers = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return {
            "predictions": [
                {"digit": digit, "probability": round(value, 6)} for digit, value in answers
            ]
        }


def encoded_images(request: dict) -> list[str]:
    """The base64 texts of a request; HTTPException 400 if it has none, too many, or something else
    in their place.
    """
    if ("image" in request) == ("images" in request):
        raise HTTPException(400, 'the request needs either "image" or "images"')
    texts = [request["image"]] if "image" in request else request["images"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise HTTPException(400, '"image" must be a base64 string and "images" a list of them')
    if not 1 <= len(texts) <= MAX_IMAGES:
        raise HTTPException(400, f'"images" must hold 1 to {MAX_IMAGES} images, not {len(texts)}')
    return texts


if __name__ == "__main__":
    serve(BaselineAPI())
