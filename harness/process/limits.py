"""What system and shell limit: signals, processes, open files, the length of a socket's path."""

import os
import platform
import tempfile
from pathlib import Path

MOST_FILES = 65536  # more than anything here opens
FILES_BESIDE = 64  # what a client or a server opens besides its connections
SOCKET_PATH_BYTES = 103  # of 104 on macOS and 108 on Linux, the zero at the end included
SOCKET = "/pymp-12345678/listener-12345678"  # what multiprocessing puts under a temporary folder


def unsupported(system: str = platform.system(), proc: Path = Path("/proc")) -> str | None:
    """Why servers cannot be launched, frozen and watched on this system; None if they can."""
    if system not in ("Linux", "Darwin"):
        return f"{system} cannot freeze a server's processes: run this on Linux or macOS, or in WSL"
    if system == "Linux" and not (proc / "self" / "stat").exists():
        return "/proc is not mounted, and without it no process can be watched: mount it"
    return None


def open_files() -> int:
    """How many files this process may have open."""
    try:
        import resource
    except ImportError:  # Windows
        return MOST_FILES
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft


def raise_open_files() -> int:
    """Raise the soft limit on open files, which children inherit, as far as the hard one allows;
    returns what it is now.
    """
    if open_files() < MOST_FILES:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        soft = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return open_files()


def allow_connections(count: int) -> None:
    """Raise the limit on open files; OSError if so many connections stay beyond it."""
    needed, allowed = count + FILES_BESIDE, raise_open_files()
    if needed > allowed:
        raise OSError(
            f"concurrency {count} needs {needed} open files, but only {allowed} are allowed: "
            f"raise the limit (ulimit -n {needed}) or ask for less"
        )


def short_temporary_folder(below: str = "") -> str:
    """The temporary folder, or another if its path is too long for sockets in it, or `below` it.

    Raises OSError if there is no other.
    """
    usual, most = tempfile.gettempdir(), SOCKET_PATH_BYTES - len(f"{below}{SOCKET}")
    for folder in (usual, "/tmp", "/var/tmp", "/dev/shm"):
        fits = len(os.fsencode(folder)) <= most
        if fits and Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise OSError(f"{usual} is too long a path for sockets: set TMPDIR to one of {most} bytes")
