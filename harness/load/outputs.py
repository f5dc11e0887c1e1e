"""When the outputs of answers that stream arrived, and how many answers streamed at once."""

from collections.abc import Iterable

from harness.load.connection import Answer
from harness.load.job import Job


def output_moments(job: Job, answer: Answer) -> list[float]:
    """When each output of an answer had arrived; several of one event share the time since the one
    before, as if they had come apart.
    """
    arrived = job.events_of(answer.body, answer.arrivals)
    counts = [(moment, int(job.carries_output(event))) for moment, event in arrived]
    counts = [(moment, count) for moment, count in counts if count]
    told, seen = job.outputs_told and job.outputs_told(answer.body), len(counts)
    if told and told > sum(count for _, count in counts):
        counts = [
            (moment, told * (at + 1) // seen - told * at // seen)
            for at, (moment, _) in enumerate(counts)
        ]
    moments = []
    for moment, count in counts:
        before = moments[-1] if moments else moment
        moments += [before + (moment - before) * at / count for at in range(1, count + 1)]
    return moments


def most_at_once(job: Job, answers: Iterable[Answer]) -> int | None:
    """The most of these answers, whole or not, that were between their first and their last output
    at one moment: 1 where each is streamed alone; None if none has an output.
    """
    moments = [output_moments(job, answer) for answer in answers]
    spans = [(each[0], each[-1]) for each in moments if each]
    if not spans:
        return None
    return max(1, *(sum(first <= begun < last for first, last in spans) for begun, _ in spans))
