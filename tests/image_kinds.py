"""One digit in the kinds of files that people have: the content of a PNG or JPEG for each.

Every function takes a light-on-dark "L" image and returns a file that shows the same digit.
"""

import io
from collections.abc import Callable

from PIL import ExifTags, Image, ImageOps

from mnist_model_benchmarking.images import UPRIGHT

UNDONE = {6: 8, 8: 6}  # the orientation that turns the other way; the others undo themselves


def content(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The image as a file of that kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int, kind: str) -> Callable[[Image.Image], bytes]:
    """A camera that was held otherwise, and says so."""

    def file(digit: Image.Image) -> bytes:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        stored = digit.transpose(UPRIGHT[UNDONE.get(orientation, orientation)])
        return content(stored, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))

    return file


def exif_last(digit: Image.Image) -> bytes:
    """A PNG whose orientation comes after its pixels, as the standard allows."""
    png = turned(6, "PNG")(digit)
    at = png.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(png[at : at + 4], "big")
    return png[:at] + png[end:-12] + png[at:end] + png[-12:]


def sixteen_bits(lowest: int, highest: int) -> Callable[[Image.Image], bytes]:
    """Levels of 65,535, from that of the ground to that of the ink."""

    def file(digit: Image.Image) -> bytes:
        scale = (highest - lowest) / 255
        levels = [round(lowest + scale * level) for level in digit.tobytes()]
        data = b"".join(level.to_bytes(2, "little") for level in levels)
        return content(Image.frombytes("I;16", digit.size, data))

    return file


def ink(mode: str, level: int, hidden: int | None = None) -> Callable[[Image.Image], bytes]:
    """Ink of one level on a transparent ground, the alpha channel telling how much of it; `hidden`
    is what the transparent pixels hold, which nobody sees.
    """

    def file(digit: Image.Image) -> bytes:
        grey = Image.new("L", digit.size, level)
        if hidden is not None:
            grey.paste(hidden, mask=digit.point(lambda alpha: 255 * (alpha == 0)))
        image = grey.convert(mode)
        image.putalpha(digit)
        return content(image)

    return file


def palette_ink(level: int) -> Callable[[Image.Image], bytes]:
    """A palette of one colour, its tRNS chunk telling how much of it there is."""

    def file(digit: Image.Image) -> bytes:
        image = Image.frombytes("P", digit.size, digit.tobytes())
        image.putpalette([level] * 768)
        return content(image, transparency=bytes(range(256)))

    return file


def palette_key(digit: Image.Image) -> bytes:
    """Greys that were blended with black, which is then declared transparent."""
    image = Image.frombytes("P", digit.size, digit.tobytes())
    image.putpalette([level for level in range(256) for _ in range(3)])
    return content(image, transparency=0)


def white_key(digit: Image.Image) -> bytes:
    """Two entries of a palette, both white, the ground's declared transparent."""
    image = Image.frombytes("P", digit.size, bytes(level > 127 for level in digit.tobytes()))
    image.putpalette([255] * 768)
    return content(image, transparency=0)


def sticker(digit: Image.Image) -> bytes:
    """An opaque dark plate with the digit on it, its corners rounded off."""
    image = digit.convert("LA")
    width, height = image.size
    corner = width // 10
    for x, y in (
        (0, 0),
        (width - corner, 0),
        (0, height - corner),
        (width - corner, height - corner),
    ):
        image.paste((255, 0), (x, y, x + corner, y + corner))
    return content(image)


EXACT = {  # the same pixels within one level
    "RGB": lambda digit: content(digit.convert("RGB")),
    "palette": lambda digit: content(digit.convert("P")),
    "dark on light": lambda digit: content(ImageOps.invert(digit)),
    **{f"PNG turned {each}": turned(each, "PNG") for each in UPRIGHT},
    "PNG with EXIF last": exif_last,
    "16 bits": sixteen_bits(0, 65_535),
    "16 bits on 300": sixteen_bits(300, 65_535),
    "16 bits, dark on light": sixteen_bits(65_535, 0),
    "white ink on transparent white": ink("RGB", 255),
    "white ink on transparent black": ink("RGB", 255, hidden=0),
    "black ink on transparent black": ink("RGB", 0),
    "black ink on transparent white": ink("RGB", 0, hidden=255),
    "LA, white ink": ink("L", 255),
    "LA, black ink": ink("L", 0),
    "palette of white ink": palette_ink(255),
    "palette of black ink": palette_ink(0),
    "palette with a key": palette_key,
    "grey with a key": lambda digit: content(digit, transparency=0),
    "light grey with a key": lambda digit: content(ImageOps.invert(digit), transparency=255),
    "colours with a key": lambda digit: content(digit.convert("RGB"), transparency=(0, 0, 0)),
    "plate with round corners": sticker,
}
CLOSE = {  # the same digit
    **{f"JPEG turned {each}": turned(each, "JPEG") for each in UPRIGHT},
    "JPEG, dark on light": lambda digit: content(ImageOps.invert(digit), "JPEG"),
    "JPEG in colour": lambda digit: content(digit.convert("RGB"), "JPEG"),
    "CMYK": lambda digit: content(digit.convert("CMYK"), "JPEG", quality=95),
    "CMYK, dark on light": lambda digit: content(ImageOps.invert(digit).convert("CMYK"), "JPEG"),
    "one bit": lambda digit: content(digit.point(lambda level: 255 * (level > 127)).convert("1")),
    "one bit, dark on light": lambda digit: content(
        digit.point(lambda level: 255 * (level <= 127)).convert("1")
    ),
    "palette of white on transparent white": white_key,
    "grey ink on grey paper": lambda digit: content(digit.point(lambda level: 200 - level // 2)),
    "grey ink on nothing": ink("L", 128),
}
KINDS = EXACT | CLOSE
