"""The command that runs a module of this very checkout, wherever it is run from."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = "TORCHINDUCTOR_CACHE_DIR"


def module_command(module: str) -> list[str]:
    """`python -m module`, without the working directory in front of the path (-P)."""
    return [sys.executable, "-P", "-m", module]


def module_environment(root: Path = ROOT) -> dict[str, str]:
    """The environment in which the modules of the checkout in `root` come before those of any other
    that is installed.

    The working directory is not in it: a file http.py there would stand for Python's own.
    """
    given = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{given}" if given else str(root)}


def compiler_cache(module: str, folder: str | Path | None) -> dict[str, str]:
    """The environment in which torch.compile finds what this module has compiled, below a folder,
    and nothing of others': a first launch pays in full, whoever was launched before. Empty without
    a folder.
    """
    return {CACHE: str(Path(folder) / module)} if folder else {}
