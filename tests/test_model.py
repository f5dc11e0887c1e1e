"""The model, its preprocessing and the digits that the project draws."""

import contextlib
import io
import json
import random

import pytest
import torch
from PIL import Image

from mnist_model_benchmarking.digits import image_file, sample_files
from mnist_model_benchmarking.model import CHECKPOINT, decode_image, load_model
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


def test_a_png_loses_nothing_on_the_way_to_pixels():
    image = Image.frombytes("L", (28, 28), bytes(range(256)) * 3 + bytes(16))
    pixels = decode_image(image_file(image, "PNG"))
    assert pixels.shape == (784,)
    assert pixels.dtype == torch.float32
    assert pixels[255].item() == pytest.approx((1 - 0.1307) / 0.3081)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_png_of_every_colour_mode_is_read(mode):
    assert decode_image(image_file(Image.new(mode, (40, 30)), "PNG")).shape == (784,)


def test_damaged_files_raise_nothing_but_value_error():
    random_state = random.Random(3)
    files = [content for content, _ in sample_files(20)]
    for _ in range(600):
        content = bytearray(random_state.choice(files))
        for _ in range(random_state.randint(1, 8)):
            content[random_state.randrange(len(content))] = random_state.randrange(256)
        with contextlib.suppress(ValueError):
            decode_image(bytes(content[: random_state.randint(1, len(content))]))
