"""What ran the measurement: cores that may be used, CPU, memory, GPUs, versions, commit."""

import contextlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from harness.measure.gpu import GpuReader
from harness.process.cores import cpu_quota, usable_cores

PACKAGES = (
    *("litserve", "torch", "torchvision", "lightning", "transformers", "bitsandbytes"),
    *("accelerate", "pillow", "uvicorn", "uvloop", "httptools", "fastapi"),
)

# what decides how fast low precision runs on a CPU: two processors of one name may differ in them
INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
)


def cpu_field(name: str) -> str | None:
    """What the kernel says of the first processor under that name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None


def instruction_sets() -> list[str] | None:
    """Which of INSTRUCTION_SETS the processor has; None where the kernel does not say."""
    flags = cpu_field("flags")
    return None if flags is None else [name for name in INSTRUCTION_SETS if name in flags.split()]


def installed_version(package: str) -> str | None:
    """The version that is installed, or None."""
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return None


def git(*arguments: str) -> str | None:
    """What git prints in this project's checkout; None where there is no git or no checkout."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        root = Path(__file__).resolve().parents[2]
        command = ("git", *arguments)
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    return None


def machine_record(gpu: GpuReader | None) -> dict[str, Any]:
    """Everything about this machine that a reader needs to judge or repeat a number."""
    changed = git("status", "--porcelain", "--", "*.py", "*.toml", "*.txt", "*.pt")
    return {
        "cpu": cpu_field("model name") or platform.processor() or None,
        "instruction_sets": instruction_sets(),
        "cores": psutil.cpu_count(),
        "usable_cores": usable_cores(),
        "cpu_quota_cores": cpu_quota(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpu.names if gpu else [],  # that are measured
        "gpu_uuid": gpu and gpu.uuid,
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in PACKAGES},
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": None if changed is None else bool(changed),
    }
