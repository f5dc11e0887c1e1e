"""What a benchmark folder brings to a run: its servers, what to send, how to judge the answers; and one load."""

from collections.abc import Callable
from dataclasses import dataclass

from harness.results import ModelAlone, load_name


@dataclass(frozen=True)
class Variant:
    """A server script and the one it is the difference to."""

    name: str
    builds_on: str | None


@dataclass(frozen=True)
class Suite:
    """What a benchmark folder brings: its servers, what to send, how to judge the answers.

    Attributes:
        name: "mnist" or "llm".
        package: the folder, as a Python package; holds server_<variant>.py.
        variants: in reading order; the first is the baseline.
        path: where requests are POSTed.
        bodies: the requests.
        check: see harness.load.Job.
        images_per_request: how many images each request carries.
        sample_answer: a right answer, for the responder that tells the client's ceiling.
        models_alone: variant names to their figures without a server, measured when asked.
    """

    name: str
    package: str
    variants: list[Variant]
    path: str
    bodies: list[bytes]
    check: Callable[[bytes, int], tuple[bool, float]]
    images_per_request: int
    sample_answer: bytes
    models_alone: Callable[[list[str]], dict[str, ModelAlone]]


@dataclass(frozen=True)
class LoadLevel:
    """One load: requests in flight, or requests per second."""

    concurrency: int | None
    rate: float | None

    @property
    def name(self) -> str:
        return load_name(self.concurrency, self.rate)
