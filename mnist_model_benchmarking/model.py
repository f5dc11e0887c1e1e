"""The MNIST classifier that every variant serves: a perceptron and its weights."""

from pathlib import Path

import torch
from torch import nn

SIDE, CLASSES = 28, 10
CHECKPOINT = Path(__file__).parent / "model_checkpoint" / "model.pt"


class DigitClassifier(nn.Sequential):
    """Perceptron 784-512-512-10: (n, 784) normalised pixels in, (n, 10) logits out."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Linear(SIDE * SIDE, 512), nn.ReLU(), nn.Dropout(0.2)),
            *(nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.2)),
            nn.Linear(512, CLASSES),
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
