"""The model and the digits that the project draws."""

import io
import json

import pytest
from PIL import Image

from mnist_model_benchmarking.digits import sample_files
from mnist_model_benchmarking.model import CHECKPOINT, load_model
from mnist_model_benchmarking.reference import answers


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


def test_the_network_is_784_512_512_10():
    parameters = load_model().named_parameters()
    shapes = [tuple(weights.shape) for name, weights in parameters if name.endswith("weight")]
    assert shapes == [(512, 784), (512, 512), (10, 512)]
