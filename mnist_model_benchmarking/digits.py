"""Labelled sample digits that the project draws itself: strokes and glyphs, randomly distorted.

    python mnist_model_benchmarking/digits.py sheet.png     # look at a hundred of them

Pen strokes and Pillow's own font under random affine changes: nobody's copyright, no download, the
same pictures for the same seed, at any size.
"""

import argparse
import io
import math
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SAMPLE_SEED = 7  # the client's digits; training draws from other seeds, so these are unseen
SAMPLES = 240

# Pen paths per digit in a unit square, y down. An arc is (centre x, centre y, radius x, radius y,
# from, to) in degrees, clockwise from three o'clock; a line is a list of points.
STROKES: dict[int, list] = {
    0: [(0.5, 0.5, 0.3, 0.42, 0, 360)],
    1: [[(0.35, 0.25), (0.55, 0.08), (0.55, 0.92)]],
    2: [
        (0.5, 0.32, 0.27, 0.24, 180, 395),
        [(0.71, 0.45), (0.22, 0.92)],
        [(0.22, 0.92), (0.8, 0.92)],
    ],
    3: [(0.47, 0.29, 0.25, 0.21, 200, 450), (0.47, 0.71, 0.29, 0.21, 270, 520)],
    4: [[(0.6, 0.08), (0.2, 0.6), (0.82, 0.6)], [(0.64, 0.35), (0.64, 0.94)]],
    5: [[(0.75, 0.09), (0.32, 0.09), (0.28, 0.45)], (0.48, 0.66, 0.28, 0.26, 225, 500)],
    6: [[(0.66, 0.06), (0.4, 0.3), (0.27, 0.6)], (0.5, 0.68, 0.24, 0.24, 0, 360)],
    7: [[(0.2, 0.1), (0.78, 0.1), (0.4, 0.93)]],
    8: [(0.5, 0.29, 0.22, 0.2, 0, 360), (0.5, 0.71, 0.27, 0.22, 0, 360)],
    9: [(0.5, 0.31, 0.24, 0.23, 0, 360), [(0.74, 0.31), (0.7, 0.62), (0.58, 0.93)]],
}


def draw_digit(digit: int, size: int, random_state: random.Random) -> Image.Image:
    """A grey `size` x `size` picture of `digit`, light on dark, in the margins that MNIST has."""
    canvas = Image.new("L", (140, 140))  # five times MNIST's side: drawn coarse, shrunk smooth
    draw_with = draw_strokes if random_state.random() < 0.6 else draw_glyph
    draw_with(ImageDraw.Draw(canvas), digit, random_state)
    return distorted(canvas, random_state).resize((size, size), Image.Resampling.BICUBIC)


def draw_strokes(draw: ImageDraw.ImageDraw, digit: int, random_state: random.Random) -> None:
    """Draw the pen paths of `digit` with a shaking hand and a pen of random width."""
    width = random_state.randint(8, 16)
    for stroke in STROKES[digit]:
        points = arc_points(*stroke) if isinstance(stroke, tuple) else stroke
        shift = random_state.gauss(0, 0.015), random_state.gauss(0, 0.015)
        path = [(20 + 100 * (x + shift[0]), 20 + 100 * (y + shift[1])) for x, y in points]
        draw.line(path, fill=255, width=width, joint="curve")
        for x, y in (path[0], path[-1]):  # round pen tips
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)


def arc_points(
    x: float, y: float, rx: float, ry: float, start: float, end: float
) -> list[tuple[float, float]]:
    """Points every ten degrees or so along an elliptic arc."""
    steps = max(2, round((end - start) / 10))
    angles = (math.radians(start + (end - start) * step / steps) for step in range(steps + 1))
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def draw_glyph(draw: ImageDraw.ImageDraw, digit: int, random_state: random.Random) -> None:
    """Draw `digit` in the font that comes inside Pillow, at a random size and weight."""
    font = ImageFont.load_default(random_state.randint(95, 125))
    stroke_width = random_state.randint(0, 4)
    draw.text((70, 70), str(digit), fill=255, font=font, anchor="mm", stroke_width=stroke_width)


def distorted(image: Image.Image, random_state: random.Random) -> Image.Image:
    """The image turned, slanted, squeezed and moved a little around its centre."""
    angle, slant = math.radians(random_state.gauss(0, 7)), random_state.gauss(0, 0.1)
    width, height = random_state.uniform(0.85, 1.15), random_state.uniform(0.9, 1.1)
    a, b = math.cos(angle) / width, (math.sin(angle) + slant) / width
    d, e = -math.sin(angle) / height, math.cos(angle) / height
    centre = 70
    dx, dy = random_state.gauss(0, 4), random_state.gauss(0, 4)
    inverse = (a, b, centre + dx - centre * (a + b), d, e, centre + dy - centre * (d + e))
    return image.transform(image.size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)


def drawn_digits(count: int, size: int, seed: int) -> Iterator[tuple[Image.Image, int]]:
    """`count` (picture, label) pairs, the ten labels in turn; the same for the same seed."""
    random_state = random.Random(seed)
    for index in range(count):
        yield draw_digit(index % 10, size, random_state), index % 10


def image_file(image: Image.Image, kind: str) -> bytes:
    """The content of a "PNG" or "JPEG" file with this image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return buffer.getvalue()


def sample_files(
    count: int = SAMPLES, size: int = 28, seed: int = SAMPLE_SEED
) -> list[tuple[bytes, int]]:
    """`count` (file content, label) pairs, PNG and JPEG in equal parts for every label."""
    pictures = drawn_digits(count, size, seed)
    return [
        (image_file(picture, ("PNG", "JPEG")[index // 10 % 2]), label)
        for index, (picture, label) in enumerate(pictures)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Save a contact sheet of a hundred sample digits.")
    parser.add_argument("file", type=Path, help="the PNG to write")
    parser.add_argument(
        "--size", type=int, default=56, help="side of one digit in pixels (default: %(default)s)"
    )
    arguments = parser.parse_args()
    sheet = Image.new("L", (10 * arguments.size, 10 * arguments.size))
    for index, (picture, _) in enumerate(drawn_digits(100, arguments.size, SAMPLE_SEED)):
        sheet.paste(picture, (index % 10 * arguments.size, index // 10 * arguments.size))
    sheet.save(arguments.file)
    print(f"wrote {arguments.file}")


if __name__ == "__main__":
    main()
