"""benchmark_results.json: written whole or not at all, read back or refused in one sentence."""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from harness.results.schema import SCHEMA_VERSION, Results


class UnusableResultsError(Exception):
    """A file is no result of this project, or of another schema; the message says which."""


def save(results: Results, path: Path) -> None:
    """Write the file whole or not at all.

    Raises OSError with one sentence if the folder cannot be written, ValueError if a number is not
    finite.
    """
    text = json.dumps(asdict(results), indent=1, allow_nan=False)
    try:
        write_whole(text + "\n", path)
    except OSError as error:
        raise OSError(f"cannot save {path}: {error.strerror or error}") from error


def write_whole(text: str, path: Path) -> None:
    """Replace the file by one with this text, once that is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, suffix=".tmp", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # a temporary file is private; the result is for all
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def read(path: Path, own_types: Callable[[str], tuple[type, type]]) -> Results:
    """The results in a file.

    Args:
        path: the file.
        own_types: what `own` of a row and of a variant are, by the package that the file names;
            raises LookupError if there is none.

    Raises UnusableResultsError with one sentence if the file holds no results of this schema.
    """
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise UnusableResultsError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UnusableResultsError(f"{path} is not valid JSON: {error}") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        message = f"{path} has schema version {version}; this program reads {SCHEMA_VERSION}"
        raise UnusableResultsError(message)
    try:
        row, variant = own_types(str(data.get("package")))
        return TypeAdapter(Results[row, variant]).validate_python(data)
    except LookupError as error:
        raise UnusableResultsError(f"{path} is of an unknown folder: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{path} does not fit the schema at {where}: {first['msg']}"
        raise UnusableResultsError(message) from error
