"""What is measured and shown of a server that is not ours: the script as written and its variants,
or the server at a URL.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import requests
from matplotlib.figure import Figure

from harness.load.connection import JSON
from harness.load.events import events, pieces
from harness.load.latency import latency_ms
from harness.measure.window import Record, Window
from harness.own_server import advice
from harness.own_server.bodies import UnusableBodiesError, bodies_in, json_objects
from harness.own_server.checks import carries_output
from harness.own_server.rows import OwnRow, OwnVariant
from harness.own_server.unloaded import EVENTS, WHOLE, Learned, learned
from harness.own_server.varied import (
    AS_WRITTEN,
    TooManyVariantsError,
    Variants,
    is_own,
    name_of,
    variants_of,
)
from harness.process.control import control_session
from harness.process.groups import signals_as_interrupt
from harness.process.launch import (
    Server,
    ServerFailedError,
    attached_server,
    running_server,
)
from harness.results.percentiles import latency_ci95_ms
from harness.results.schema import Results, VariantResult
from harness.run import shared_flags
from harness.show.columns import CORRECT, CPU, LOAD, latency_column, latency_text, number, rate_text
from harness.show.presentation import Ceiling, Column, served
from harness.suite import CannotMeasureError, Suite, Variant

LAUNCHER = "harness.own_server.launcher"
DEFAULT_PATH = "/predict"
WINDOW_S, LONGEST_WINDOW_S = 0.6, 3.0  # as long as a lone answer takes, within these
COLUMNS = [
    LOAD,
    Column("requests/s [95 %]", lambda row: rate_text(row.requests_per_second)),
    latency_column("p50"),
    latency_column("p99"),
    Column("first event ms [95 %]", lambda row: stream_text("mean", row, "first_event"), True),
    Column("gap p50 ms [95 %]", lambda row: stream_text("p50", row, "event_gap"), True),
    CORRECT,
    Column("mean batch", lambda row: number(row.mean_batch_size, ".1f"), True),
    Column("MB per worker", lambda row: megabytes(row.worker_memory_bytes), True),
    CPU,
]


@dataclass(kw_only=True)
class OwnSuite(Suite):
    """A script that is not ours, or the server at a URL.

    Attributes:
        launch: the launcher's last arguments: the script, and after "--" its own.
        changes: by variant, what it changes of the script as written.
    """

    name: str = "own server"
    package = "harness.own_server"
    variants: Sequence[Variant] = (Variant(AS_WRITTEN, None),)
    unit = "requests"
    path: str = DEFAULT_PATH
    own_row, own_variant = OwnRow, OwnVariant
    columns = COLUMNS

    launch: tuple[str, ...] = ()
    changes: Variants = field(default_factory=dict)

    def server(self, variant: str) -> tuple[str, tuple[str, ...]]:
        changes = self.changes.get(variant, ())
        sets = (part for change in changes for part in ("--set", "=".join(change)))
        return LAUNCHER, (*sets, *self.launch)

    def attached(self, url: str) -> Server:
        return server_at(url)

    def prepare(self, variants: list[str]) -> None:
        pass

    def close(self) -> None:
        pass

    def row(self, windows: list[Window]) -> OwnRow:
        if not self.carries_output:
            return OwnRow()
        first = latency_ms([each for window in windows for each in window.first_output_s])
        gaps = latency_ms([each for window in windows for each in window.output_gaps_s])
        return OwnRow(first, dict.fromkeys(first), gaps, dict.fromkeys(gaps))

    def with_intervals(self, own: OwnRow, windows: list[Window]) -> OwnRow:
        if not self.carries_output:
            return own
        first, gaps = (
            latency_ci95_ms((each.epoch, each.block, seconds_of(each)) for each in windows)
            for seconds_of in (attrgetter("first_output_s"), attrgetter("output_gaps_s"))
        )
        return replace(own, first_event_ci95_ms=first, event_gap_ci95_ms=gaps)

    def variant(self, name: str, _records: Mapping[str, list[Record]]) -> OwnVariant:
        return OwnVariant(dict(self.changes.get(name, ())))

    @staticmethod
    def ceilings(variant: VariantResult) -> list[Ceiling]:
        best, no_op = variant.best, variant.no_op_server
        if best is None or no_op is None:
            return []
        above = f"no-op server at concurrency {no_op.concurrency}"
        return [Ceiling(above, no_op.requests_per_second), served(best)]

    @staticmethod
    def sentences(results: Results) -> list[str]:
        return advice.sentences(results)

    @staticmethod
    def last_words(results: Results) -> list[str]:
        return advice.lines_to_add(results)

    @staticmethod
    def charts(_results: Results) -> dict[str, Figure]:
        return {}


SUITE = OwnSuite


class OtherServer(Server):
    """A server that is no LitServe of ours: it has no totals to tell, whatever is at /stats."""

    def stats(self) -> None:
        return None


def server_at(url: str) -> Server:
    """The server of --url: one of ours with its stages, any other by its answers alone."""
    try:
        server = attached_server(url)
    except ServerFailedError:
        return OtherServer(url.rstrip("/"), None, None, None, {}, None)
    return server if server.run_id else OtherServer(**vars(server) | {"pid": None})


def stream_text(name: str, row: Any, of: str) -> str:
    """The mean or percentile of that name of a stream's times; a dash where nothing streams."""
    values, ci95 = getattr(row.own, f"{of}_ms"), getattr(row.own, f"{of}_ci95_ms")
    return latency_text(name, values, ci95) if values else "–"


def megabytes(size: int | None) -> str:
    """Bytes as MB."""
    return number(size and size / 1e6, ",.0f")


def suite(options: argparse.Namespace, headers: Mapping[str, str]) -> OwnSuite:
    """The suite made ready for a run: the server as it is has answered every request; sets
    `variants` and `path` in the options.

    Raises CannotMeasureError, and ServerFailedError if the script does not come up.
    """
    try:
        bodies = bodies_in(options.body, options.content_type)
    except UnusableBodiesError as error:
        raise CannotMeasureError(str(error)) from error
    headers = dict(headers)
    if options.content_type != JSON:
        headers["Content-Type"] = options.content_type
    launch = (options.script, *(["--", *options.arguments] if options.arguments else []))
    empty = OwnSuite(
        bodies=bodies,
        request="",
        output_per_request=1,
        check=None,
        sample_answer=b"",
        launch=launch if options.script else (),
        headers=headers,
        no_op_bodies=json_objects(bodies, options.content_type),
    )
    with signals_as_interrupt():
        if options.url:
            return asked_there(empty, options)
        return asked_as_written(empty, options)


def asked_there(made: OwnSuite, options: argparse.Namespace) -> OwnSuite:
    """The suite of a server that runs already."""
    server = server_at(options.url)
    made.path = options.path = options.path or path_of(server.info)
    answers = answers_of(made, server.url, options)
    name = server.info.get("variant", "server")
    made.variants, options.variants = [Variant(name, None)], [name]
    without = ()
    if isinstance(server, OtherServer):
        without = (f"{server.url} tells no stages: requests are timed from outside alone",)
        if not alive(server.url):
            without += ("it has no /health: it is taken for alive because it answers requests",)
    return with_answers(made, server.url, answers, without)


def asked_as_written(made: OwnSuite, options: argparse.Namespace) -> OwnSuite:
    """The suite of a script, which is launched once as it is written."""
    module, flags = made.server(AS_WRITTEN)
    # a name without a value is refused if there is none such, and else told by /info
    names = (part for setting in options.vary for part in ("--set", setting[0].name))
    with running_server(
        module, *shared_flags(options.accelerator, options.api_servers), *names, *flags
    ) as server:
        made.path = options.path = options.path or path_of(server.info)
        answers = answers_of(made, server.url, options)
        info = server.info
    try:
        made.changes = variants_of(options.vary, info, options.grid)
    except TooManyVariantsError as error:
        raise CannotMeasureError(str(error)) from error
    made.variants = [Variant(AS_WRITTEN, None)]
    made.variants += [Variant(name, AS_WRITTEN) for name in made.changes]
    options.variants = [variant.name for variant in made.variants]
    own = [each for setting in options.vary for each in setting if is_own(each, info)]
    as_it_is = (f"as written the script has {name_of(tuple(own))} already",) if own else ()
    return with_answers(made, options.script, answers, as_it_is)


def path_of(info: Mapping[str, Any]) -> str:
    """Where the server says that requests are POSTed; CannotMeasureError if there is a choice."""
    paths = info.get("paths") or [DEFAULT_PATH]
    if len(paths) > 1:
        raise CannotMeasureError(f"it serves {' and '.join(paths)}: choose one with --path")
    return paths[0]


def answers_of(made: OwnSuite, url: str, options: argparse.Namespace) -> Learned:
    """What the server answers without load."""
    where = f"{url}{made.path}"
    return learned(where, made.bodies, made.headers, options.timeout, options.check)


def with_answers(made: OwnSuite, name: str, answers: Learned, others: tuple[str, ...]) -> OwnSuite:
    """The suite that knows how to judge answers; says what was decided."""
    streams = answers.kind != WHOLE
    for note in (*answers.notes, *others):
        print(note)
    return replace(
        made,
        name=name,
        request=f"POST {made.path}",
        check=answers.check,
        sample_answer=answers.sample,
        carries_output=carries_output if streams else None,
        events_of=events if answers.kind == EVENTS else pieces,
        min_requests=1 if streams else made.min_requests,
        notes=(*answers.notes, *others),
        window_s=min(max(WINDOW_S, answers.latency_s), LONGEST_WINDOW_S),
    )


def alive(url: str) -> bool:
    """Whether /health answers 200."""
    try:
        return control_session().get(f"{url}/health", timeout=5).ok
    except requests.RequestException:
        return False
