"""Train the MNIST classifier with Lightning, on MNIST and on digits the project draws itself.

    python mnist_model_benchmarking/train.py --download             # about two minutes on two cores
    python mnist_model_benchmarking/train.py --compare              # what mixed precision changes

Writes model_checkpoint/model.pt (a state dict) and model_checkpoint/training.json (accuracy,
seconds, bytes, images, seed, versions); --compare leaves both alone, trains in every precision and
writes model_checkpoint/precisions.json, which README.md shows. Self-drawn digits are mixed in so
that the bundled samples, which the benchmark sends, are recognised too.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset
from torchvision.datasets import MNIST
from torchvision.transforms.v2 import RandomAffine

from harness.measure.machine import machine_record
from harness.process.cores import usable_cores
from mnist_model_benchmarking.digits import SAMPLE_SEED, SAMPLES, drawn_digits
from mnist_model_benchmarking.images import MEAN, STD, pixels
from mnist_model_benchmarking.model import CHECKPOINT, SIDE, DigitClassifier

DRAWN_IMAGES = 12_000
BATCH = 256
PRECISIONS = "32-true", "bf16-mixed"
RECORDED_VERSIONS = ("torch", "torchvision", "lightning", "pillow")
BACKGROUND = -MEAN / STD  # what a black pixel becomes; affine changes uncover corners


class SavedTensors:
    """Counts the bytes that a forward pass keeps for its backward pass, besides the weights."""

    bytes = 0

    @contextlib.contextmanager
    def counted(self, weights: Iterable[Tensor], *, if_: bool) -> Iterator[None]:
        """Count what is kept by the `with` block; nothing, at no cost, unless `if_`."""
        if not if_:
            yield
            return
        own = {each.untyped_storage().data_ptr() for each in weights}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            yield
        self.bytes = sum(kept.values())


class DigitTraining(lightning.LightningModule):
    """Cross-entropy on randomly shifted images, one learning-rate cycle with AdamW."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.model = DigitClassifier()
        self.augment = RandomAffine(8, translate=(0.08, 0.08), scale=(0.92, 1.08), fill=BACKGROUND)
        self.steps = steps
        self.saved = SavedTensors()
        self.step_ends: list[float] = []

    def on_after_batch_transfer(self, batch: list[Tensor], _: int) -> list[Tensor]:
        """Move the images here: in the step, autocast would round their coordinates to bfloat16."""
        images, labels = batch
        if self.trainer.training:
            images = self.augment(images.view(-1, 1, SIDE, SIDE)).flatten(1)
        return [images, labels]

    def training_step(self, batch: list[Tensor], step: int) -> Tensor:
        images, labels = batch
        with self.saved.counted(self.parameters(), if_=step == 0):
            loss = nn.functional.cross_entropy(self.model(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.step_ends.append(time.perf_counter())

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
    module, record = trained(arguments)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    torch.save(module.model.state_dict(), arguments.output)
    write_record(record, arguments.output.with_name("training.json"))


def compare(arguments: argparse.Namespace) -> None:
    """Train in every precision side by side, a process and a share of the cores each, so that what
    else runs here slows all alike; write what differs.
    """
    machine = machine_record([])
    context = get_context("spawn")
    with ProcessPoolExecutor(len(PRECISIONS), mp_context=context) as fresh:
        asked = [argparse.Namespace(**vars(arguments) | {"precision": p}) for p in PRECISIONS]
        records = list(fresh.map(record_of, asked))
    shown = (
        "precision",
        "mnist_test_accuracy",
        "bundled_digits_accuracy",
        "seconds",
        "step_ms",
        "kept_bytes",
    )
    sets = ", ".join(name for name in machine["instruction_sets"] or [] if "bf16" in name)
    trained_on = (
        f"Trained side by side on {machine['cpu']}, {machine['usable_cores']} cores "
        f"({sets or 'no bf16'}); torch {version('torch')}, lightning {version('lightning')}; "
        f"{records[0]['epochs']} epochs, batches of {BATCH}, seed {records[0]['seed']}"
    )
    rows = [{name: record[name] for name in shown} for record in records]
    write_record({"note": trained_on, "rows": rows}, arguments.output.with_name("precisions.json"))


def record_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The record of one of the trainings that run side by side, without its model."""
    torch.set_num_threads(max(1, usable_cores() // len(PRECISIONS)))
    return trained(arguments)[1]


def write_record(record: dict[str, Any], path: Path) -> None:
    """Print it and write it as JSON."""
    text = json.dumps(record, indent=2)
    path.write_text(text + "\n")
    print(text)


def trained(arguments: argparse.Namespace) -> tuple[DigitTraining, dict[str, Any]]:
    """A trained model and its record.

    In the record, `seconds` are those of the training itself, `step_ms` is the median over its
    steps, and `kept_bytes` what the forward pass of one batch keeps for its backward pass, besides
    the weights.
    """
    lightning.seed_everything(arguments.seed, verbose=False)
    mnist = mnist_images(arguments.data_dir, True, arguments.download)
    drawn = drawn_images(DRAWN_IMAGES, seed=1000 + arguments.seed)
    both = ConcatDataset([mnist, drawn])
    batches = DataLoader(both, batch_size=BATCH, shuffle=True, drop_last=True)
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
    began = time.perf_counter()
    trainer.fit(module, batches)
    seconds = round(time.perf_counter() - began, 1)
    mnist_test = mnist_images(arguments.data_dir, False, False)
    record = {
        "mnist_test_accuracy": accuracy(trainer, module, mnist_test),
        "bundled_digits_accuracy": accuracy(trainer, module, drawn_images(SAMPLES, SAMPLE_SEED)),
        "seconds": seconds,
        "step_ms": round(1000 * median(b - a for a, b in pairwise(module.step_ends)), 2),
        "kept_bytes": module.saved.bytes,
        "training_images": {"mnist": len(mnist), "drawn": len(drawn)},
        "epochs": arguments.epochs,
        "seed": arguments.seed,
        "precision": arguments.precision,
        "versions": {name: version(name) for name in RECORDED_VERSIONS},
    }
    return module, record


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
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="what Lightning computes in (default: %(default)s)",
    )
    add("--compare", action="store_true", help="train in every precision, keep the checkpoint")
    add("--accelerator", default="auto", help="what Lightning trains on (default: %(default)s)")
    add("--seed", type=int, default=0, help="of weights and drawings (default: %(default)s)")
    add("--output", type=Path, default=CHECKPOINT, help="the checkpoint (default: %(default)s)")
    arguments = parser.parse_args()
    if not arguments.download and not (arguments.data_dir / "MNIST" / "raw").is_dir():
        sys.exit(f"no MNIST/raw in {arguments.data_dir}: add --download or another --data-dir")
    (compare if arguments.compare else train)(arguments)


if __name__ == "__main__":
    main()
