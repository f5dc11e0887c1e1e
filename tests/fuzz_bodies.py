"""Bodies that no honest client sends: valid ones mutated, odd JSON, images of every kind."""

import base64
import io
import itertools
import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, NamedTuple

from PIL import Image

ODD_VALUES = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308, 5e-324),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "\0", "7", "NaN", "null", "=" * 7),
    *("\ud800", "\udfff\ud800", "\u202e\ufeff", "💥" * 999, "a" * 100_000, "%00%0a", "../../etc"),
    *([], {}, [[]], [{}], [None], {"": None}, {"a": {"a": {"a": []}}}, [0] * 1000, ["user"] * 99),
]
ODD_TEXTS = [  # what json.dumps would not write
    *(b"", b" ", b"null", b"true", b"0", b'""', b"[]", b"{}", b"[1]", b"NaN", b"-Infinity", b"\0"),
    *(b"\xff\xfe", b"\xef\xbb\xbf{}", b"{]", b"}", b"{'a': 1}", b"{a: 1}", b'{"a": 1,}', b"{}{}"),
    *(b"/* */ {}", b'{"a": 01}', b'{"a": .5}', b'{"a": "\n"}', b'{"a": "\\x"}', b'{"a": "\\ud8"}'),
    *(b"[" * 100_000, b'{"a":' * 50_000, b"[" * 9_000 + b"]" * 9_000, b"1" * 5_000, b"1e999999999"),
    *(b"<?xml version='1.0'?><a/>", b"a=1&b=2", b"%PDF-1.7", b"\x1f\x8b\x08\0\0\0\0\0"),
]
ODD_NUMBERS = b"1e999", b"-1e-999", b"9" * 5_000, b"NaN", b"-Infinity", b"0x10", b"1_000", b"+1"
MODES = (
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB"),
    *("HSV", "I", "F", "I;16", "I;16L", "I;16B"),
)
READABLE = {"PNG", "JPEG", "MPO"}  # formats; an MPO is several JPEG files in one
Path = tuple[Any, ...]


class Body(NamedTuple):
    """What is sent.

    Attributes:
        content: of the request.
        is_bad: nobody could serve it; a mutated one may happen to be valid.
    """

    content: bytes
    is_bad: bool


def odd_bodies(valid: list[dict], seed: int) -> Iterator[Body]:
    """Bodies without end: the odd texts and every truncation first, then random mutations."""
    chosen = random.Random(seed)
    yield from (Body(text, True) for text in ODD_TEXTS)
    yield from truncations(json.dumps(valid[0]).encode())
    for number in itertools.count():
        yield MUTATIONS[number % len(MUTATIONS)](deepcopy(chosen.choice(valid)), chosen)


def truncations(content: bytes) -> Iterator[Body]:
    """The JSON document cut off at every tenth byte."""
    return (Body(content[:end], True) for end in range(0, len(content), 10))


def paths(document: Any, here: Path = ()) -> Iterator[Path]:
    """The way to every value of a JSON document, itself first."""
    yield here
    keys = document if isinstance(document, dict) else ()
    for key in range(len(document)) if isinstance(document, list) else keys:
        yield from paths(document[key], (*here, key))


def changed(document: dict, chosen: random.Random, change: Callable[[Any, Any], None]) -> None:
    """Let `change(container, key)` do something to a value of the document, drawn at random."""
    *way, key = chosen.choice(list(paths(document))[1:])
    container = document
    for step in way:
        container = container[step]
    change(container, key)


def retyped(document: dict, chosen: random.Random) -> Body:
    """An odd value in the place of another."""
    odd = chosen.choice(ODD_VALUES)
    changed(document, chosen, lambda container, key: container.__setitem__(key, odd))
    return Body(json.dumps(document).encode(), False)


def shortened(document: dict, chosen: random.Random) -> Body:
    """A value is missing."""
    changed(document, chosen, lambda container, key: container.__delitem__(key))
    return Body(json.dumps(document).encode(), False)


def nested(document: dict, chosen: random.Random) -> Body:
    """A value inside of so many lists."""
    depth = chosen.choice((1, 3, 500, 2_000))

    def wrap(container: Any, key: Any) -> None:
        container[key] = "HERE"

    changed(document, chosen, wrap)
    text = json.dumps(document).replace('"HERE"', "[" * depth + "1" + "]" * depth)
    return Body(text.encode(), False)


def extended(document: dict, chosen: random.Random) -> Body:
    """A field more, with an odd name and value."""
    name = chosen.choice(("n", "stop", "image", "images", "model", "", "\ud800", "__class__"))
    document[name] = chosen.choice(ODD_VALUES)
    return Body(json.dumps(document).encode(), False)


def odd_number(document: dict, chosen: random.Random) -> Body:
    """A number in the place of a value that Python would not write so."""
    changed(document, chosen, lambda container, key: container.__setitem__(key, "HERE"))
    text = json.dumps(document).encode().replace(b'"HERE"', chosen.choice(ODD_NUMBERS))
    return Body(text, False)


def repeated(document: dict, chosen: random.Random) -> Body:
    """A field twice, the second time with an odd value."""
    name = json.dumps(chosen.choice(list(document)))
    text = f"{json.dumps(document)[:-1]}, {name}: {json.dumps(chosen.choice(ODD_VALUES))}}}"
    return Body(text.encode(), False)


def cut(document: dict, chosen: random.Random) -> Body:
    """The end is missing."""
    text = json.dumps(document).encode()
    return Body(text[: chosen.randrange(len(text))], True)


def damaged(document: dict, chosen: random.Random) -> Body:
    """Some bytes are others, missing or too many."""
    text = bytearray(json.dumps(document).encode())
    for _ in range(chosen.choice((1, 3, 30))):
        at = chosen.randrange(len(text))
        text[at : at + chosen.randrange(3)] = chosen.randbytes(chosen.randrange(3))
    return Body(bytes(text), False)


def reencoded(document: dict, chosen: random.Random) -> Body:
    """Another encoding than UTF-8; json.loads detects those of Unicode."""
    encoding = chosen.choice(("utf-16", "utf-32", "utf-16-le", "utf-8-sig", "cp500"))
    return Body(json.dumps(document).encode(encoding), encoding == "cp500")


MUTATIONS = [retyped, retyped, shortened, nested, extended, odd_number, repeated, cut, damaged]
MUTATIONS += [retyped, reencoded]


def odd_files(digit: Image.Image) -> Iterator[tuple[bytes, bool]]:
    """A picture in every mode and format that Pillow writes, and whether none of them is readable;
    then PNG and JPEG files cut off at every tenth byte.
    """
    Image.init()
    for mode, kind in itertools.product(MODES, sorted(Image.SAVE)):
        if content := written(digit, mode, kind):
            yield content, kind not in READABLE
    for kind in ("PNG", "JPEG"):
        content = written(digit, "L", kind)
        yield from ((content[:end], False) for end in range(0, len(content), 10))


def written(digit: Image.Image, mode: str, kind: str) -> bytes | None:
    """The content of a file; None if that format has no such mode."""
    buffer = io.BytesIO()
    try:
        in_colour = digit.convert("RGB") if mode in ("LAB", "HSV", "YCbCr") else digit
        image = in_colour.convert(mode) if mode != digit.mode else digit
        image.save(buffer, kind)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SystemError):
        return None
    return buffer.getvalue()


def image_bodies(digit: Image.Image) -> Iterator[Body]:
    """One request for each of the odd files; some in a list beside a good one."""
    for number, (content, is_bad) in enumerate(odd_files(digit)):
        text = base64.b64encode(content).decode()
        document = {"images": [text] * 2} if number % 3 == 0 else {"image": text}
        yield Body(json.dumps(document).encode(), is_bad)
