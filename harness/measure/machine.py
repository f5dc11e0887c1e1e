"""What ran the measurement: cores that may be used, CPU, memory, GPUs, versions, commit."""

import contextlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from harness.process.cores import cpu_quota, usable_cores

PACKAGES = (
    *("litserve", "torch", "torchvision", "lightning", "transformers", "bitsandbytes"),
    *("accelerate", "pillow", "uvicorn", "uvloop", "httptools", "fastapi"),
)

def cpu_model() -> str | None:
    """The processor's name as the kernel tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def installed_version(package: str) -> str | None:
    """The version that is installed, or None."""
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return None


def git(*arguments: str) -> str | None:
    """What git prints in this project's checkout; None where there is no git or no checkout."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        root = Path(__file__).resolve().parents[2]
        return subprocess.run(("git", *arguments), cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    return None


def machine_record(gpus: list[str]) -> dict[str, Any]:
    """Everything about this machine that a reader needs to judge or repeat a number."""
    changed = git("status", "--porcelain", "--", "*.py", "*.toml", "*.txt", "*.pt")
    return {
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(),
        "usable_cores": usable_cores(),
        "cpu_quota_cores": cpu_quota(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus,
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in PACKAGES},
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": None if changed is None else bool(changed),
    }
