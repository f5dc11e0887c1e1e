"""What a server answers without load: every request asked twice, to know what may be checked."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import requests

from harness.load.connection import JSON
from harness.own_server.checks import RELATIVE, AnswerCheck, ending_of, same_answer
from harness.process.control import control_session
from harness.suite import CannotMeasureError

AUTO, SAME, STATUS = CHECKS = "auto", "same", "status"
ASKING_S = 60.0  # for asking every request twice, at most
EXCERPT = 200  # bytes of an answer in a message
WHOLE, EVENTS, PIECES = "whole", "server-sent events", "pieces"


class Reply(NamedTuple):
    """One answer without load: its body, how it came (WHOLE, EVENTS, PIECES), its seconds."""

    body: bytes
    kind: str
    seconds: float


class Learned(NamedTuple):
    """What is known of a server's answers.

    Attributes:
        check: judges an answer under load; None to trust its status.
        kind: how all answers come: WHOLE, EVENTS or PIECES.
        sample: an answer.
        latency_s: of a lone request, mean.
        notes: what was decided, in sentences.
    """

    check: AnswerCheck | None
    kind: str
    sample: bytes
    latency_s: float
    notes: tuple[str, ...]


def learned(
    url: str, bodies: list[bytes], headers: Mapping[str, str], timeout_s: float, check: str = AUTO
) -> Learned:
    """Ask a server every request twice, in the second round backwards, as far as time allows.

    Args:
        check: SAME and STATUS decide what is checked, AUTO leaves it to the answers.

    Raises CannotMeasureError with one sentence if a request is not answered with a 200, or, where
    SAME was asked for, not twice alike.
    """
    with control_session() as session:

        def ask(index: int) -> Reply:
            return asked(session, url, index, bodies[index], headers, timeout_s)

        first = in_time(range(len(bodies)), ask)
        again = in_time(reversed(first), ask) if check != STATUS else {}
    kinds = {reply.kind for reply in first.values()}
    kind = min(kinds) if len(kinds) == 1 else WHOLE
    changed = sum(
        not same_answer(first[index].body, reply.body, kind == EVENTS)
        for index, reply in again.items()
    )
    if check == SAME and changed:
        raise CannotMeasureError(
            f"--check same: {changed} of {len(again)} requests were answered differently the "
            "second time, without load; try --check status"
        )
    compare = bool(again) and not changed
    ending = ending_of([reply.body for reply in first.values()]) if kind != WHOLE else b""
    known = {index: first[index].body for index in again} if compare else {}
    expected = [known.get(index) for index in range(len(bodies))]
    return Learned(
        check=AnswerCheck(expected, ending, kind == EVENTS) if compare or ending else None,
        kind=kind,
        sample=first[0].body,
        latency_s=sum(reply.seconds for reply in first.values()) / len(first),
        notes=notes(check, kind, len(bodies), len(again), changed, len(kinds) > 1),
    )


def in_time(indices: "range | reversed", ask: Callable[[int], Reply]) -> dict[int, Reply]:
    """The replies to these requests, until half of the time for asking is up; one at least."""
    deadline, replies = time.monotonic() + ASKING_S / 2, {}
    for index in indices:
        replies[index] = ask(index)
        if time.monotonic() > deadline:
            break
    return replies


def asked(
    session: requests.Session,
    url: str,
    index: int,
    body: bytes,
    headers: Mapping[str, str],
    timeout_s: float,
) -> Reply:
    """One answer; CannotMeasureError if it is no 200."""
    began = time.monotonic()
    try:
        answer = session.post(
            url, data=body, headers={"Content-Type": JSON} | dict(headers), timeout=timeout_s
        )
    except requests.RequestException as error:
        raise CannotMeasureError(
            f"request {index + 1} got no answer from {url}: {error}"
        ) from error
    if answer.status_code != 200:
        said = answer.content[:EXCERPT].decode(errors="replace")
        raise CannotMeasureError(
            f"request {index + 1} is answered with {answer.status_code} at {url}, and only 200 "
            f"counts: {said}"
        )
    return Reply(answer.content, kind_of(answer), time.monotonic() - began)


def kind_of(answer: requests.Response) -> str:
    """How an answer came, by its headers."""
    content_type = answer.headers.get("Content-Type", "")
    if content_type.startswith("text/event-stream"):
        return EVENTS
    chunked = answer.headers.get("Transfer-Encoding", "").lower() == "chunked"
    return PIECES if chunked and not content_type.startswith(JSON) else WHOLE


def notes(
    check: str, kind: str, bodies: int, again: int, changed: int, mixed: bool
) -> tuple[str, ...]:
    """What was decided, in sentences."""
    status = "answers are checked for their status" + (" and their end" if kind != WHOLE else "")
    if check == STATUS:
        said = [f"{status} only, as asked for"]
    elif changed:
        said = [
            f"{status} only: {changed} of {again} requests were answered differently the second "
            "time, without load"
        ]
    else:
        rest = "" if again == bodies else f"; those to the other {bodies - again} for their status"
        said = [
            f"answers are compared with those without load (numbers to {100 * RELATIVE:g} %), "
            f"which were the same twice for {again} of {bodies} requests{rest}"
        ]
    if kind != WHOLE:
        said.append(f"answers stream as {kind}")
    if mixed:
        said.append("only some answers stream: they are timed to their end alone")
    return tuple(said)
