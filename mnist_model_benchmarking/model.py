"""The MNIST classifier that every variant serves: a perceptron, its weights, its preprocessing.

Training and serving go through the same `pixels` function, so a served image is what the network
was trained on.
"""

import io
import struct
import zlib
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

SIDE = 28
CHECKPOINT = Path(__file__).parent / "model_checkpoint" / "model.pt"
MAX_SIDE = 4096  # pixels; checked before decoding, so that a small file cannot claim gigabytes
MEAN, STD = 0.1307, 0.3081  # of the 60,000 MNIST training images scaled to [0, 1]

# What Pillow raises for content that is broken: see "Image file formats" in its handbook.
BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


class DigitClassifier(nn.Sequential):
    """Perceptron 784-512-512-10: (n, 784) normalised pixels in, (n, 10) logits out."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Linear(SIDE * SIDE, 512), nn.ReLU(), nn.Dropout(0.2)),
            *(nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.2)),
            nn.Linear(512, 10),
        )


def load_model(device: str = "cpu", dtype: torch.dtype = torch.float32) -> DigitClassifier:
    """The trained classifier in evaluation mode.

    Raises FileNotFoundError, with the command that makes the checkpoint, if it is missing.
    """
    if not CHECKPOINT.exists():
        script = "mnist_model_benchmarking/train.py"
        raise FileNotFoundError(f"{CHECKPOINT} is missing; python {script} writes it")
    model = DigitClassifier()
    model.load_state_dict(torch.load(CHECKPOINT, map_location="cpu", weights_only=True))
    return model.to(device=device, dtype=dtype).eval()


def pixels(image: Image.Image) -> Tensor:
    """(784,) float32, normalised: the image as a grey, light-on-dark 28x28 square, as in MNIST."""
    grey = image if image.mode == "L" else image.convert("L")
    if grey.size != (SIDE, SIDE):
        grey = grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    levels = torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8)
    return levels.to(torch.float32).div_(255).sub_(MEAN).div_(STD)


def decode_image(content: bytes) -> Tensor:
    """(784,) float32 pixels of a PNG or JPEG file; ValueError with a sentence for anything else."""
    try:
        image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        if max(image.size) > MAX_SIDE:
            raise ImageTooLargeError(image.size)
        return pixels(image)
    except (ImageTooLargeError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image is larger than {MAX_SIDE} x {MAX_SIDE} pixels") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError("the image is neither a PNG nor a JPEG file") from error
    except BROKEN_IMAGE as error:
        raise ValueError(f"the image is damaged: {error}") from error


class ImageTooLargeError(Exception):
    """The header claims more pixels than this project decodes."""
