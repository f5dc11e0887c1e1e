"""benchmark_results.json: written whole or not at all, read back with one clear sentence if it cannot be."""

import json
import os
import tempfile
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from harness.results.run import SCHEMA_VERSION, Results


class UnusableResultsError(Exception):
    """A file is no result of this project, or of another schema; the message says which."""


def save(results: Results, path: Path) -> None:
    """Write the file whole or not at all.

    Raises OSError if the folder cannot be written, ValueError if a number is not finite.
    """
    text = json.dumps(TypeAdapter(Results).dump_python(results), indent=2, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            file.write(text + "\n")
            file.flush()
            os.chmod(file.name, 0o644)  # noqa: PTH101 - a temporary file is private; the result is for everybody
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def read(path: Path) -> Results:
    """The results in a file; UnusableResultsError with one sentence if it holds none of this schema."""
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise UnusableResultsError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UnusableResultsError(f"{path} is not valid JSON: {error}") from error
    found = data.get("schema_version") if isinstance(data, dict) else None
    if found != SCHEMA_VERSION:
        raise UnusableResultsError(f"{path} has schema version {found}; this program reads {SCHEMA_VERSION}")
    try:
        return TypeAdapter(Results).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnusableResultsError(f"{path} does not fit the schema at {where}: {first['msg']}") from error
