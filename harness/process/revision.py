"""Another revision of this checkout, in a git worktree of its own for as long as it is measured."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.process.groups import uninterrupted
from harness.process.guardian import guarded

CHECKOUT = Path(__file__).resolve().parents[2]


class NoRevisionError(Exception):
    """A revision cannot be checked out; the message says why, in one sentence."""


@dataclass(frozen=True)
class Revision:
    """A revision that is checked out.

    Attributes:
        name: as it was asked for.
        commit: its hash, abbreviated.
        root: the folder that holds what this checkout's own root does.
    """

    name: str
    commit: str
    root: Path

    def has(self, module: str) -> bool:
        """Whether it has this module or package, by its importable name."""
        path = self.root.joinpath(*module.split("."))
        return path.is_dir() or path.with_suffix(".py").is_file()


@contextlib.contextmanager
def checked_out(name: str, checkout: Path = CHECKOUT) -> Iterator[Revision]:
    """A worktree of the revision of that name, removed at the end of the `with` block.

    If this process is killed, its guardian removes the files, and the next call git's entry.

    Raises NoRevisionError if there is no git, no checkout, or no such revision.
    """
    prefix = git(checkout, "rev-parse", "--show-prefix", failing="--against needs a git checkout")
    commit = commit_of(name, checkout)
    git(checkout, "worktree", "prune", failing="git cannot tidy up its worktrees")
    directory = Path(tempfile.mkdtemp(prefix="revision-"))
    place = directory / "checkout"
    with guarded(directory):
        try:
            words = "worktree", "add", "--detach", str(place), commit
            git(checkout, *words, failing=f"cannot check {name} out")
            short = git(
                checkout, "rev-parse", "--short", commit, failing=f"no such revision: {name}"
            )
            yield Revision(name, short, place / prefix)
        finally:
            with uninterrupted(), contextlib.suppress(NoRevisionError):
                shutil.rmtree(directory, ignore_errors=True)
                # twice: git locks the entry of a worktree whose making was cut off
                words = "worktree", "remove", "--force", "--force", str(place)
                git(checkout, *words, failing="no worktree was made")


def commit_of(name: str, checkout: Path) -> str:
    """The full hash of the commit that a name stands for."""
    words = "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
    try:
        return git(checkout, *words, failing=f"no such revision: {name}")
    except NoRevisionError as error:
        shallow = git(checkout, "rev-parse", "--is-shallow-repository", failing=str(error))
        hint = "; this clone has only its last commits: git fetch --unshallow"
        raise NoRevisionError(f"{error}{hint if shallow == 'true' else ''}") from error


def git(checkout: Path, *words: str, failing: str) -> str:
    """What git prints; NoRevisionError that begins with `failing` and ends with git's reason."""
    try:
        done = subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True)
    except OSError as error:
        raise NoRevisionError(f"--against needs git: {error.strerror}") from error
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2].removeprefix("fatal: ")
        raise NoRevisionError(f"{failing} ({reason})" if reason else failing)
    return done.stdout.strip()
