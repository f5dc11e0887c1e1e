"""One job from its start to its result: on an event loop here, or in a process of its own."""

import asyncio
import gc
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from harness.load.closed_loop import ClosedLoop
from harness.load.connection import Answer
from harness.load.job import HTTP_ERROR, OK, WRONG_ANSWER, Job, LoadResult
from harness.load.loop import LoadLoop, Moment
from harness.load.open_loop import OpenLoop
from harness.load.outputs import output_moments
from harness.process.module_process import LastingProcess, notify_caller

try:
    from uvloop import new_event_loop
except ImportError:  # Windows
    from asyncio import new_event_loop

REPLY_LIMIT_S = 30  # beyond the job: for checking its answers and starting the process


def ignore(_: Moment) -> None:
    """What is done if nobody wants to be told."""


def run_job(
    job: Job,
    on_moment: Callable[[Moment], None] = ignore,
    clock: Callable[[], float] = time.monotonic,  # uvloop's own is a millisecond coarse
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop,
) -> LoadResult:
    """Run a job on an event loop of its own.

    Args:
        on_moment: told each Moment when it has come; nothing is received while it is told.
    """
    gc.collect()
    gc.freeze()  # what is here now stays: collecting it again and again would be paid by the server
    gc.disable()

    async def measured() -> tuple[LoadLoop, list[Answer]]:
        loop = (ClosedLoop if job.rate is None else OpenLoop)(job, clock, on_moment)
        return loop, await loop.run()

    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            loop, answers = runner.run(measured())
        return result_of(loop, answers)
    finally:
        gc.enable()


def result_of(loop: LoadLoop, counted: list[Answer]) -> LoadResult:
    """Every counted answer compared with what it should be, and timed."""
    checks = [checked(loop.job, answer) for answer in counted]
    answers = [answer for answer, _ in checks]
    beside = [checked(loop.job, answer)[0] for answer in loop.beside]
    beside = [answer for answer in beside if answer.outcome == OK]
    served = [answer for answer in answers if answer.outcome == OK] + beside
    errors = [answer for answer in answers if answer.outcome == HTTP_ERROR]
    streamed = answers if loop.job.carries_output else []
    outputs = [output_moments(loop.job, answer) for answer in streamed]
    whole = [m for answer, m in zip(streamed, outputs, strict=True) if answer.outcome == OK]
    return LoadResult(
        opened=loop.opened,
        closed=loop.closed,
        full_since=loop.full_since,
        ended=[answer.ended for answer in answers],
        latency_s=[answer.ended - answer.intended for answer in answers],
        service_s=[answer.ended - answer.sent for answer in answers],
        outcome=[answer.outcome for answer in answers],
        quality=[quality for _, quality in checks],
        statuses=dict(Counter(answer.status for answer in errors)),
        correct_in_window=sum(loop.opened <= answer.ended <= loop.closed for answer in served),
        outputs_in_window=outputs_in_window(loop, whole, [*beside, *loop.unfinished]),
        outputs_per_answer=sum(map(len, whole)) / len(whole) if whole else None,
        client_cpu_s=loop.client_cpu_s,
        first_output_s=[
            moments[0] - answer.intended if moments else None
            for answer, moments in zip(streamed, outputs, strict=True)
        ],
        output_gaps_s=[
            [after - before for before, after in itertools.pairwise(moments)] for moments in outputs
        ],
        late_s=loop.late_s,
    )


def checked(job: Job, answer: Answer) -> tuple[Answer, float | None]:
    """An answer with the outcome it deserves once its body has been looked at, and its quality."""
    if answer.outcome != OK:
        return answer, None
    correct, quality = job.check(answer.body, answer.index) if job.check else (True, 1.0)
    return answer if correct else answer._replace(outcome=WRONG_ANSWER), quality


def outputs_in_window(
    loop: LoadLoop, counted: list[list[float]], others: list[Answer]
) -> int | None:
    """How many outputs arrived inside the window: of counted answers, given their moments, and of
    others; None if they do not stream.
    """
    if not loop.job.carries_output:
        return None
    of_others = (output_moments(loop.job, answer) for answer in others)
    return sum(
        loop.opened < moment <= loop.closed for moment in itertools.chain(*counted, *of_others)
    )


@contextmanager
def load_process() -> Iterator[Callable[..., LoadResult]]:
    """A process of its own that runs jobs, one at a time.

    Call what this yields with a Job and, if something is to be done at the moments of its window, a
    function that is told them; what it raises is raised after the job. If the process ends or does
    not answer in time, another one does the job once more, warm-up and moments included; if that
    fails as well, raises ProcessDiedError or TimeoutError.
    """
    with LastingProcess("harness.load.runner") as process:
        yield partial(run_in, process)


def run_in(
    process: LastingProcess,
    job: Job,
    on_moment: Callable[[Moment], None] = ignore,
) -> LoadResult:
    """Run a job in that process; what the function raises is raised after the job."""
    failures: list[Exception] = []

    def on_notice(moment: Moment) -> None:
        if moment is Moment.OPENED:
            failures.clear()  # of an attempt whose process died
        try:
            on_moment(moment)
        except Exception as error:  # the job goes on, and its result must be fetched
            failures.append(error)

    limit_s = job.limit_s + REPLY_LIMIT_S
    result = process("run_and_notify", job, timeout_s=limit_s, on_notice=on_notice)
    if failures:
        raise failures[0]
    return result


def run_and_notify(job: Job) -> LoadResult:
    """Run a job in this process; the one that called hears the moments of its window, and has
    time, at the last of them, for what it does then.
    """
    return run_job(job, lambda moment: notify_caller(moment, hold=moment is Moment.CLOSED))
