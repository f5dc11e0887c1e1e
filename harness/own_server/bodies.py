"""Requests from files: what is POSTed, with which headers; refused in one sentence if unusable."""

import argparse
import json
import re
from pathlib import Path
from typing import NamedTuple

from harness.load.connection import JSON

LINES = ".jsonl", ".ndjson"  # suffixes of files that hold a document per line
NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2
OURS = "host", "content-length", "transfer-encoding", "connection", "x-request-start"


class UnusableBodiesError(ValueError):
    """A file holds no requests; the message says where and why, in one sentence."""


class Header(NamedTuple):
    """One header of every request; its value may be a secret, and is never saved."""

    name: str
    value: str


def bodies_in(path: Path | str, content_type: str = JSON) -> list[bytes]:
    """The bodies in a file or, a file each, in a folder.

    JSON: a .jsonl file holds one per line, any other is one; a folder's .json files are one each.
    Other content types: every file is one, as it is. Raises UnusableBodiesError.
    """
    path, is_json = Path(path), content_type.partition(";")[0].strip().lower().endswith("json")
    try:
        made = bodies_of(path, is_json)
    except OSError as error:
        raise UnusableBodiesError(f"{path} cannot be read: {error.strerror}") from error
    if not made:
        raise UnusableBodiesError(f"{path} holds no request")
    return made


def bodies_of(path: Path, is_json: bool) -> list[bytes]:
    """The bodies in a file or folder; OSError, UnusableBodiesError."""
    if path.is_dir():
        names = "*.json" if is_json else "[!.]*"
        files = sorted(each for each in path.glob(names) if each.is_file())
        return [whole(each, is_json) for each in files]
    if not is_json or path.suffix not in LINES:
        return [whole(path, is_json)]
    lines = [line.strip() for line in path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()]
    return [document(line, f"{path}, line {at}") for at, line in enumerate(lines, 1) if line]


def whole(path: Path, is_json: bool) -> bytes:
    """A file that is one body."""
    content = path.read_bytes()
    return document(content, str(path)) if is_json else content


def document(text: bytes, where: str) -> bytes:
    """The text, which is one JSON document."""
    try:
        json.loads(text)
    except ValueError as error:  # UnicodeDecodeError is one, too
        several = getattr(error, "msg", "") == "Extra data" and "line" not in where
        hint = f"; one document per line is a file named *{LINES[0]}" if several else ""
        raise UnusableBodiesError(f"{where}: no JSON document: {error}{hint}") from error
    return text


def header(text: str) -> Header:
    """A header from "Name: value"; ArgumentTypeError if that is none that can be sent."""
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon or not NAME.fullmatch(name):
        raise argparse.ArgumentTypeError(f"{name!r} is no header: write 'Name: value'")
    if name.lower() in OURS:
        raise argparse.ArgumentTypeError(f"{name} follows from the request")
    if name.lower() == "content-type":
        raise argparse.ArgumentTypeError("set it with --content-type")
    if not (value.isascii() and value.isprintable()):
        raise argparse.ArgumentTypeError(f"the value of {name} cannot be sent in a header")
    return Header(name, value)


def url_path(text: str) -> str:
    """A path, with a query or without; ArgumentTypeError if no request line can hold it."""
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise argparse.ArgumentTypeError(f"{text!r}: quote what a URL cannot hold, a space as %20")
    return text if text.startswith("/") else f"/{text}"


def json_objects(bodies: list[bytes], content_type: str) -> list[bytes] | None:
    """JSON objects as large as the bodies, for a server that takes nothing else; None if they are
    objects.
    """
    if content_type == JSON and all(body.lstrip()[:1] == b"{" for body in bodies):
        return None
    return [json.dumps({"": "x" * max(0, len(body) - 8)}).encode() for body in bodies]
