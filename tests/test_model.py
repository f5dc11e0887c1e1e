"""The model and the digits that the project draws."""

import io
import json

import pytest
import torch
from PIL import Image
from torch import nn

from mnist_model_benchmarking.digits import sample_files
from mnist_model_benchmarking.model import CHECKPOINT, load_model
from mnist_model_benchmarking.reference import answers
from mnist_model_benchmarking.train import PRECISIONS, SavedTensors


def test_the_bundled_digits_are_many_deterministic_and_of_both_kinds():
    files = sample_files()
    assert len(files) >= 200
    assert files == sample_files()
    assert len({content for content, _ in files}) == len(files)
    assert {Image.open(io.BytesIO(content)).format for content, _ in files} == {"PNG", "JPEG"}
    assert {label for _, label in files} == set(range(10))


@pytest.mark.parametrize("size", [28, 200])
def test_the_model_labels_97_percent_of_the_bundled_digits_correctly(size):
    files, labels = zip(*sample_files(size=size), strict=True)
    pairs = zip(answers(list(files)), labels, strict=True)
    correct = sum(answer == label for answer, label in pairs)
    assert correct >= 0.97 * len(files)


def test_the_record_beside_the_checkpoint_says_what_it_was_trained_on():
    record = json.loads(CHECKPOINT.with_name("training.json").read_text())
    assert record["training_images"]["mnist"] == 60_000
    assert record["mnist_test_accuracy"] >= 0.98


def test_the_record_of_precisions_has_one_line_each_and_both_learn():
    records = json.loads(CHECKPOINT.with_name("precisions.json").read_text())
    full, mixed = records["rows"]
    assert (full["precision"], mixed["precision"]) == PRECISIONS
    assert full["mnist_test_accuracy"] > 0.95
    assert mixed["mnist_test_accuracy"] == pytest.approx(full["mnist_test_accuracy"], abs=0.01)
    assert mixed["kept_bytes"] < full["kept_bytes"]


def test_kept_bytes_are_those_of_the_inputs_that_the_backward_pass_needs():
    layers, saved = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), SavedTensors()
    images = torch.ones(5, 3)
    with saved.counted(layers.parameters(), if_=True):
        layers(images).sum()
    assert saved.bytes == 4 * (5 * 3 + 5 * 4)
    with saved.counted(layers.parameters(), if_=False):
        layers(torch.ones(50, 3)).sum()
    assert saved.bytes == 4 * (5 * 3 + 5 * 4)


def test_the_network_is_784_512_512_10():
    parameters = load_model().named_parameters()
    shapes = [tuple(weights.shape) for name, weights in parameters if name.endswith("weight")]
    assert shapes == [(512, 784), (512, 512), (10, 512)]
