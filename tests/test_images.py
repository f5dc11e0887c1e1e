"""Reading images: files of every kind that people have, base64 as clients write it, and limits."""

import base64
import contextlib
import io
import random
import struct
import zlib

import pytest
import torch
from PIL import Image

from mnist_model_benchmarking.digits import drawn_digits, image_file, sample_files
from mnist_model_benchmarking.images import (
    MAX_PIXELS,
    MIN_CONTRAST,
    STD,
    decode_base64,
    decode_images,
    pixels,
)
from mnist_model_benchmarking.model import load_model
from tests.image_kinds import CLOSE, EXACT, KINDS, content, turned

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LEVEL = 1 / 255 / STD  # one level of 255, in normalised pixels
DIGITS = [image for size in (28, 140) for image, _ in drawn_digits(40, size, seed=7)]
PIXELS = torch.stack([pixels(image) for image in DIGITS])
MODEL = load_model()


def digits_in(images: torch.Tensor) -> list[int]:
    """What the model reads in (n, 784) pixels."""
    with torch.inference_mode():
        return MODEL(images).argmax(dim=1).tolist()


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG, (name, data) each."""
    chunks, at = [], len(SIGNATURE)
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """The PNG with these chunks, checksums right."""
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return SIGNATURE + b"".join(packed)


def png_claiming(width: int, height: int) -> bytes:
    """A small PNG whose header claims that size."""
    (name, data), *others = chunks_of(content(Image.new("L", (1, 1))))
    return png_of([(name, struct.pack(">II", width, height) + data[8:]), *others])


@pytest.mark.parametrize("kind", EXACT)
def test_the_same_digit_in_another_kind_of_file_has_the_same_pixels(kind):
    read = decode_images([EXACT[kind](image) for image in DIGITS])
    assert (read - PIXELS).abs().max() <= 1.01 * LEVEL


@pytest.mark.parametrize("kind", CLOSE)
def test_a_digit_in_a_kind_of_file_that_loses_something_is_read_as_that_digit(kind):
    read = digits_in(decode_images([CLOSE[kind](image) for image in DIGITS]))
    right = sum(one == other for one, other in zip(read, digits_in(PIXELS), strict=True))
    assert right >= 0.95 * len(DIGITS)


def test_the_bundled_digits_keep_the_very_levels_of_their_files():
    files = [file for file, _ in sample_files()]
    stored = [list(Image.open(io.BytesIO(file)).tobytes()) for file in files]
    assert torch.equal(decode_images(files), ((torch.tensor(stored) / 255) - 0.1307) / 0.3081)


def test_a_png_loses_nothing_on_the_way_to_pixels():
    image = Image.frombytes("L", (28, 28), bytes(range(256)) * 3 + bytes(16))
    read = decode_images([image_file(image, "PNG")])
    assert read.shape == (1, 784)
    assert read.dtype == torch.float32
    expected = (torch.tensor([*range(256)] * 3 + [0] * 16) / 255 - 0.1307) / 0.3081
    assert torch.allclose(read[0], expected)


def test_the_images_of_a_request_keep_their_order():
    together = decode_images([content(image) for image in DIGITS])
    assert torch.equal(together, PIXELS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
@pytest.mark.parametrize("level", [0, 255])
def test_a_blank_image_of_any_mode_is_refused(mode, level):
    image = Image.new("L", (40, 30), level).convert(mode)
    with pytest.raises(ValueError, match="blank, there is nothing to read"):
        decode_images([content(image, "JPEG" if mode == "CMYK" else "PNG")])


def test_an_image_that_is_all_transparent_is_blank():
    image = DIGITS[0].convert("RGBA")
    image.putalpha(0)
    with pytest.raises(ValueError, match="blank"):
        decode_images([content(image)])


@pytest.mark.parametrize("ground", [0, 255])
def test_blank_is_what_has_less_contrast_than_the_limit(ground):
    image, sign = Image.new("L", (28, 28), ground), -1 if ground else 1
    image.paste(ground + sign * MIN_CONTRAST, (10, 4, 14, 24))
    assert decode_images([content(image)]).shape == (1, 784)
    image.paste(ground + sign * (MIN_CONTRAST - 1), (10, 4, 14, 24))
    with pytest.raises(ValueError, match=f"differ by {MIN_CONTRAST - 1} of 255"):
        decode_images([content(image)])


def test_pixels_are_counted_over_all_images_of_a_request_from_their_headers():
    """None of these files could be decoded, and none is: the refusal would be another."""
    half = png_claiming(4096, MAX_PIXELS // 4096 // 2)
    with pytest.raises(ValueError, match="damaged"):
        decode_images([half, half])
    for files in ([half, half, png_claiming(1, 1)], [png_claiming(4096, 4097)]):
        with pytest.raises(ValueError, match="16,777,216 pixels together"):
            decode_images(files)
    with pytest.raises(ValueError, match="16,777,216 pixels together"):
        decode_images([png_claiming(2**31 - 1, 2**31 - 1)])  # Pillow's own limit


def test_a_jpeg_of_ever_more_scans_is_not_decoded():
    jpeg = content(DIGITS[3], "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    assert digits_in(decode_images([jpeg[:-2] + 20 * scan + jpeg[-2:]])) == [3]
    with pytest.raises(ValueError, match="more than 64 scans"):
        decode_images([jpeg[:-2] + 64 * scan + jpeg[-2:]])


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP"])
def test_a_png_of_ever_more_text_or_profiles_is_not_inflated(name):
    header, *others = chunks_of(content(DIGITS[3]))
    bomb = (name, b"a\0\0" + zlib.compress(bytes(400_000)))
    assert digits_in(decode_images([png_of([header, bomb, *others])])) == [3]
    with pytest.raises(ValueError, match="damaged"):
        decode_images([png_of([header, bomb, bomb, *others])])


@pytest.mark.parametrize(
    "written",
    [
        lambda text: f"data:image/png;base64,{text}",
        lambda text: f"data:;base64,{text.rstrip('=')}\n",
        lambda text: "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        lambda text: f"{text}\n",
        lambda text: text.rstrip("="),
        lambda text: text.translate(str.maketrans("+/", "-_")),
        lambda text: text.translate(str.maketrans("+/", "-_")).rstrip("="),
    ],
)
@pytest.mark.parametrize("length", [1, 2, 255, 256, 300])
def test_base64_is_read_as_clients_write_it(written, length):
    data = bytes(range(256))[::-1][:length] + bytes(range(length - 256))
    assert decode_base64(base64.b64encode(data).decode()) == data
    assert decode_base64(written(base64.b64encode(data).decode())) == data


@pytest.mark.parametrize(
    "text", ["%%%", "ü", "A", "data:image/png,abcd", "data:image/png;base64", "QQ==QQ==", "a=b"]
)
def test_what_is_not_base64_is_refused_with_what_to_send(text):
    with pytest.raises(ValueError, match="send the content of a PNG or JPEG file as base64"):
        decode_base64(text)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_chunks_of_other_images_raise_nothing_but_value_error():
    """Checksums right, so that what is wrong gets past them."""
    random_state = random.Random(5)
    pngs = [file for kind in KINDS.values() if (file := kind(DIGITS[3])).startswith(SIGNATURE)]
    for _ in range(2000):
        chunks, others = chunks_of(random_state.choice(pngs)), chunks_of(random_state.choice(pngs))
        for _ in range(random_state.randint(1, 3)):
            chunks[random_state.randrange(len(chunks))] = random_state.choice(others)
            chunks.insert(random_state.randrange(1, len(chunks)), random_state.choice(others))
        with contextlib.suppress(ValueError):
            decode_images([png_of(chunks)])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_raise_nothing_but_value_error():
    random_state = random.Random(3)
    kinds = [file(DIGITS[3]) for file in KINDS.values()]
    files = [content for content, _ in sample_files(20)] + kinds
    for _ in range(1000):
        file = bytearray(random_state.choice(files))
        for _ in range(random_state.randint(1, 8)):
            file[random_state.randrange(len(file))] = random_state.randrange(256)
        with contextlib.suppress(ValueError):
            decode_images([bytes(file[: random_state.randint(1, len(file))])])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_image_whose_tags_are_damaged_is_read_all_the_same():
    """JPEG has no checksums, so the damage reaches whoever reads the tags."""
    random_state = random.Random(4)
    whole = turned(6, "JPEG")(DIGITS[3])
    start = whole.index(b"Exif\0\0") + 6
    end = whole.index(b"\xff\xdb", start)
    for _ in range(500):
        file = bytearray(whole)
        for _ in range(random_state.randint(1, 6)):
            file[random_state.randrange(start, end)] = random_state.randrange(256)
        assert decode_images([bytes(file)]).shape == (1, 784)
