"""The load generator as a command: how fast does this URL answer?

    python -m harness.load http://127.0.0.1:8000/predict --body request.json --concurrency 64

A general HTTP client costs the machine 4 to 20 times as much CPU per request, and takes it from the
server. Closed loop: every connection has one request at a time. Open loop (--rate): requests are
sent when they are due, and latency counts from that moment, so that a server cannot slow its own
examination down.
"""

import argparse
import json
import math
import statistics
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from harness.load.job import Job, LoadResult
from harness.load.latency import latency_ms, request_counts
from harness.load.runner import run_job
from harness.process.control import REFUSED_STATUSES, key_header, key_refusal, plain_http_url
from harness.process.limits import allow_connections

REFUSED = 2
REACHED_SHARE = 0.95  # of an offered rate
DEFAULTS = {field.name: field.default for field in fields(Job)}


def report(result: LoadResult) -> dict[str, Any]:
    """The JSON object that --json prints; keys and units as in benchmark_results.json."""
    sent, late_s = len(result.ended), result.late_s
    return {
        "requests_per_second": result.requests_per_second,
        "latency_ms": latency_ms(result.correct_latency_s),
        "requests": request_counts(result),
        "client": {
            "cpu_us_per_request": 1e6 * result.client_cpu_s / sent if sent else None,
            "mean_send_delay_ms": 1000 * statistics.fmean(late_s) if late_s else None,
        },
    }


def shortfall(job: Job, result: LoadResult) -> str | None:
    """What to say where an open loop sent fewer requests in its window than it had to."""
    answers = zip(result.ended, result.service_s, strict=True)
    sent = sum(ended - service <= result.closed for ended, service in answers)
    due = (job.rate or 0) * job.duration_s
    if sent >= REACHED_SHARE * due - 3 * math.sqrt(due):  # three standard deviations of arrivals
        return None
    return f"the offered rate was not reached: {sent} requests were sent where {due:.0f} were due"


def text(summary: dict[str, Any]) -> str:
    """The report for people."""
    known = {name: value for name, value in summary["latency_ms"].items() if value is not None}
    milliseconds = ", ".join(f"{name} {value:.2f}" for name, value in known.items()) or "-"
    counts = ", ".join(f"{count} {name}" for name, count in summary["requests"].items() if count)
    cpu = summary["client"]["cpu_us_per_request"]
    return (
        f"{summary['requests_per_second']:.1f} requests/s\nlatency in ms: {milliseconds}\n"
        f"requests: {counts}\nclient: {'?' if cpu is None else round(cpu)} µs of CPU per request"
    )


def parsed() -> argparse.Namespace:
    """The command line, its destinations named as the fields of a Job."""
    about = __doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m harness.load", description=about)
    where = "where to POST, for example http://127.0.0.1:8000/predict"
    parser.add_argument("url", type=plain_http_url, help=where)
    parser.add_argument("--body", type=Path, required=True, help="file with the JSON document")

    def option(flag: str, name: str, kind: type, what: str) -> None:
        default = DEFAULTS[name]
        shown = "" if default is None else " (default: %(default)s)"
        parser.add_argument(flag, dest=name, type=kind, default=default, help=what + shown)

    option("--concurrency", "concurrency", int, "connections, each with one request at a time")
    option("--duration", "duration_s", float, "seconds to measure")
    option("--warmup", "warmup_s", float, "seconds before that")
    option("--rate", "rate", float, "open loop: offered requests/s, Poisson arrivals")
    option("--timeout", "timeout_s", float, "seconds for one request")
    option("--seed", "seed", int, "of the arrival times")
    parser.add_argument("--json", action="store_true", help="print one JSON object, not text")
    return parser.parse_args()


def main() -> None:
    options = vars(parsed())
    as_json, file = options.pop("json"), options.pop("body")
    try:
        allow_connections(0 if options["rate"] else options["concurrency"])
        job = Job(bodies=[file.read_bytes()], headers=key_header(), **options)
    except OSError as error:  # no such file, a key that cannot be sent, too few files
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
    result = run_job(job)
    summary = report(result)
    print(json.dumps(summary, allow_nan=False) if as_json else text(summary))
    if reason := shortfall(job, result):
        print(reason, file=sys.stderr)
    if not REFUSED_STATUSES.isdisjoint(result.statuses):
        print(key_refusal(options["url"]), file=sys.stderr)
    sys.exit(0 if summary["requests"]["ok"] == summary["requests"]["sent"] > 0 else 1)


if __name__ == "__main__":
    main()
