"""Reading images as people have them: base64, PNG and JPEG in, the pixels that MNIST has out.

Training and serving go through the same `levels` function, so a served image is what the network
was trained on.
"""

import base64
import io
import re
import struct
import warnings
import zlib

import numpy as np
import torch
from PIL import ExifTags, Image, PngImagePlugin
from torch import Tensor

from mnist_model_benchmarking.limits import MAX_PIXELS
from mnist_model_benchmarking.model import SIDE

TOO_LARGE = f"the images of a request may have {MAX_PIXELS:,} pixels together"
SCAN = re.compile(rb"\xff\xda\x00[\x08\x0a\x0c\x0e]")  # its header, in a JPEG
MAX_SCANS = 64  # a progressive JPEG has ten or so; 33 bytes are one more pass over all pixels
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 19  # bytes, inflated on open
MIN_CONTRAST = 32  # of 255 levels; with less the model reads two of three MNIST digits wrong
MEAN, STD = 0.1307, 0.3081  # of the 60,000 MNIST training images scaled to [0, 1]
NORMALISED = torch.arange(256).float().div_(255).sub_(MEAN).div_(STD).numpy()  # by grey level

# What Pillow raises for content that is broken: see "Image file formats" in its handbook; the last
# two where parts of a file do not fit each other.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
DAMAGE += (AssertionError, TypeError)
warnings.filterwarnings("ignore", module=r"PIL\.")  # a client's odd tags must not fill the log

HOLDS_ORIENTATION = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
UPRIGHT = {  # as in ImageOps.exif_transpose, which also rewrites the tags and trips over odd ones
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_base64(text: str) -> bytes:
    """The bytes that `text` stands for: standard or urlsafe base64, padded or not, with or without
    white space, or a data: URL; ValueError with a sentence that says what to send otherwise.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        data = "".join(text.split())
    if data.startswith("data:"):
        data = data.partition(";base64,")[2] or "not base64"
    data = data.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(data + "=" * (-len(data) % 4), validate=True)
    except ValueError as error:
        wanted = "as base64 or as a data: URL in base64"
        raise ValueError(f"send the content of a PNG or JPEG file {wanted}: {error}") from error


def decode_images(files: list[bytes]) -> Tensor:
    """(files, 784) float32 pixels of PNG or JPEG files; ValueError with a sentence if one of them
    is something else, damaged or blank, or if they have more than MAX_PIXELS together.
    """
    images = [opened(content) for content in files]
    if sum(image.width * image.height for image in images) > MAX_PIXELS:
        raise ValueError(TOO_LARGE)
    return normalised(b"".join([levels(image) for image in images])).view(-1, SIDE * SIDE)


def opened(content: bytes) -> Image.Image:
    """The image with its header read, nothing decoded yet; ValueError if it is none."""
    try:
        if content.count(b"iCCP") > 1:  # the most that PNG allows; Pillow inflates every one
            raise ValueError("more than one colour profile")
        image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        if image.format != "PNG" and len(SCAN.findall(content)) > MAX_SCANS:
            raise ValueError(f"more than {MAX_SCANS} scans")
        return image
    except Image.DecompressionBombError as error:
        raise ValueError(TOO_LARGE) from error
    except Image.UnidentifiedImageError as error:
        raise ValueError("the image is neither a PNG nor a JPEG file") from error
    except DAMAGE as error:
        raise damaged(error) from error


def pixels(image: Image.Image) -> Tensor:
    """(784,) float32, normalised; ValueError if the image is damaged or blank."""
    return normalised(levels(image))


def normalised(levels: bytes) -> Tensor:
    """(levels,) float32 with mean 0 and standard deviation 1 over the MNIST training images."""
    return torch.from_numpy(NORMALISED.take(np.frombuffer(levels, np.uint8)))


def levels(image: Image.Image) -> bytes:
    """784 grey levels: the image upright, as a light-on-dark 28x28 square; ValueError if it is
    damaged or blank.
    """
    try:
        image.load()  # a PNG's tags may come last
        plain = image.mode == "L" and "transparency" not in image.info
        grey = shrunk(image) if plain else grey_square(image)
    except DAMAGE as error:
        raise damaged(error) from error
    if not HOLDS_ORIENTATION.isdisjoint(image.info):
        grey = upright(grey, image)
    return light_on_dark(grey)


def damaged(error: Exception) -> ValueError:
    return ValueError(f"the image is damaged: {str(error) or 'its parts do not fit each other'}")


def shrunk(grey: Image.Image) -> Image.Image:
    size = (SIDE, SIDE)
    return grey if grey.size == size else grey.resize(size, Image.Resampling.BILINEAR)


def grey_square(image: Image.Image) -> Image.Image:
    """A 28x28 "L" of any mode: 16 bits scaled to 8, transparency on the ground that suits it."""
    if image.mode.startswith("I"):  # 16 bits, which convert("L") alone would clip to 8
        return shrunk(image.point(lambda level: level / 257 + 0.5).convert("L"))
    keyed = isinstance(image.info.get("transparency"), int | tuple)
    if keyed or not image.has_transparency_data:
        square = shrunk(image.convert("L"))
        if not keyed or contrast(square) >= MIN_CONTRAST:  # the key is a ground by itself
            return square
    ink, alpha = image.convert("LA").split()
    return best([composite(ink, alpha, ground) for ground in (0, 255)])


def composite(ink: Image.Image, alpha: Image.Image, ground: int) -> Image.Image:
    """The 28x28 "L" of ink on a ground of that level."""
    grey = Image.new("L", ink.size, ground)
    grey.paste(ink, mask=alpha)
    return shrunk(grey)


def best(composites: list[Image.Image]) -> Image.Image:
    """The composite with contrast, where the ink is of one level; where it comes with a ground of
    its own, the one that prolongs that ground, and so has fewer edges.
    """
    low, high = sorted(composites, key=contrast)
    return high if contrast(low) < 0.75 * contrast(high) else min(low, high, key=edges)


def contrast(grey: Image.Image) -> int:
    darkest, lightest = grey.getextrema()
    return lightest - darkest


def edges(grey: Image.Image) -> int:
    """The differences between neighbours, summed."""
    square = np.asarray(grey, int)
    return sum(int(np.abs(np.diff(square, axis=axis)).sum()) for axis in (0, 1))


def upright(grey: Image.Image, image: Image.Image) -> Image.Image:
    """`grey` turned as the tags of `image` say; as it is where they are damaged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except DAMAGE:
        return grey
    return grey.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else grey


def light_on_dark(grey: Image.Image) -> bytes:
    """The levels of a 28x28 "L", or how much darker than the paper they are: where the border's
    median is above the middle of darkest and lightest, it is the level of paper.
    """
    darkest, lightest = grey.getextrema()
    if lightest - darkest < MIN_CONTRAST:
        seen = f"at {SIDE} x {SIDE} pixels its levels differ by {lightest - darkest} of 255"
        raise ValueError(f"the image is blank, there is nothing to read: {seen}")
    levels = grey.tobytes()
    border = levels[:SIDE] + levels[-SIDE:] + levels[::SIDE] + levels[SIDE - 1 :: SIDE]
    paper = sorted(border)[len(border) // 2]
    if 2 * paper <= darkest + lightest:
        return levels
    return bytes(max(0, paper - level) for level in levels)
