"""Train the MNIST classifier with Lightning, on MNIST and on digits the project draws itself.

    python mnist_model_benchmarking/train.py --download             # about two minutes on two cores

Writes model_checkpoint/model.pt (a state dict) and model_checkpoint/training.json (accuracy,
images, seed, versions). Self-drawn digits are mixed in so that the bundled samples, which the
benchmark sends, are recognised too.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset
from torchvision.datasets import MNIST
from torchvision.transforms.v2 import RandomAffine

from mnist_model_benchmarking.digits import SAMPLE_SEED, SAMPLES, drawn_digits
from mnist_model_benchmarking.images import MEAN, STD, pixels
from mnist_model_benchmarking.model import CHECKPOINT, SIDE, DigitClassifier

DRAWN_IMAGES = 12_000
RECORDED_VERSIONS = ("torch", "torchvision", "lightning", "pillow")
BACKGROUND = -MEAN / STD  # what a black pixel becomes; affine changes uncover corners


class DigitTraining(lightning.LightningModule):
    """Cross-entropy on randomly shifted images, one learning-rate cycle with AdamW."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.model = DigitClassifier()
        self.augment = RandomAffine(8, translate=(0.08, 0.08), scale=(0.92, 1.08), fill=BACKGROUND)
        self.steps = steps

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        images, labels = batch
        moved = self.augment(images.view(-1, 1, SIDE, SIDE)).flatten(1)
        loss = nn.functional.cross_entropy(self.model(moved), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def test_step(self, batch: list[Tensor]) -> None:
        images, labels = batch
        self.log("accuracy", (self.model(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = OneCycleLR(optimizer, max_lr=2e-3, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def mnist_images(directory: Path, train: bool, download: bool) -> TensorDataset:
    """MNIST as (n, 784) float32 pixels and (n,) labels, preprocessed as the servers do it."""
    data = MNIST(str(directory), train=train, download=download)
    return TensorDataset(torch.stack([pixels(image) for image, _ in data]), data.targets)


def drawn_images(count: int, seed: int) -> TensorDataset:
    """Self-drawn digits as (n, 784) float32 pixels and (n,) labels."""
    pictures, labels = zip(*drawn_digits(count, SIDE, seed), strict=True)
    images = torch.stack([pixels(picture) for picture in pictures])
    return TensorDataset(images, torch.tensor(labels))


def train(arguments: argparse.Namespace) -> None:
    """Train, test on both kinds of images, write the checkpoint and its record."""
    lightning.seed_everything(arguments.seed, verbose=False)
    mnist = mnist_images(arguments.data_dir, True, arguments.download)
    drawn = drawn_images(DRAWN_IMAGES, seed=1000 + arguments.seed)
    both = ConcatDataset([mnist, drawn])
    batches = DataLoader(both, batch_size=256, shuffle=True, drop_last=True)
    module = DigitTraining(steps=len(batches) * arguments.epochs)
    trainer = lightning.Trainer(
        max_epochs=arguments.epochs,
        precision=arguments.precision,
        accelerator=arguments.accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[TQDMProgressBar(refresh_rate=20)],
    )
    trainer.fit(module, batches)
    mnist_test = mnist_images(arguments.data_dir, False, False)
    record = {
        "mnist_test_accuracy": accuracy(trainer, module, mnist_test),
        "bundled_digits_accuracy": accuracy(trainer, module, drawn_images(SAMPLES, SAMPLE_SEED)),
        "training_images": {"mnist": len(mnist), "drawn": len(drawn)},
        "epochs": arguments.epochs,
        "seed": arguments.seed,
        "precision": arguments.precision,
        "versions": {name: version(name) for name in RECORDED_VERSIONS},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    torch.save(module.model.state_dict(), arguments.output)
    arguments.output.with_name("training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


def accuracy(trainer: lightning.Trainer, module: DigitTraining, images: TensorDataset) -> float:
    """Share of `images` that the trained model labels correctly."""
    (metrics,) = trainer.test(module, DataLoader(images, batch_size=1000), verbose=False)
    return round(metrics["accuracy"], 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add(
        "--data-dir",
        type=Path,
        default=Path("data"),
        help="folder that holds, or receives, MNIST/raw (default: %(default)s)",
    )
    add("--download", action="store_true", help="fetch MNIST into --data-dir first")
    add("--epochs", type=int, default=15, help="passes over all images (default: %(default)s)")
    add(
        "--precision",
        choices=("32-true", "bf16-mixed"),
        default="32-true",
        help="what Lightning computes in (default: %(default)s)",
    )
    add("--accelerator", default="auto", help="what Lightning trains on (default: %(default)s)")
    add("--seed", type=int, default=0, help="of weights and drawings (default: %(default)s)")
    add("--output", type=Path, default=CHECKPOINT, help="the checkpoint (default: %(default)s)")
    arguments = parser.parse_args()
    if not arguments.download and not (arguments.data_dir / "MNIST" / "raw").is_dir():
        sys.exit(f"no MNIST/raw in {arguments.data_dir}: add --download or another --data-dir")
    train(arguments)


if __name__ == "__main__":
    main()
