"""One run of a suite: plan, measure, put together what was measured so far after every block."""

import argparse
import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from harness.judge.judgement import judged
from harness.judge.verdicts import LoadFit, load_fits, widest_percent
from harness.load.job import Job
from harness.load.runner import load_process
from harness.measure.epochs import Campaign, Measured, Plan, ServerSpec
from harness.measure.gpu import gpu_reader
from harness.measure.machine import machine_record
from harness.measure.no_op import shape_of
from harness.measure.room import room
from harness.measure.utilisation import RoleMemory
from harness.measure.window import OfferedLoad, Record, Window, mean, total_bytes, worker_bytes
from harness.process.control import key_header
from harness.process.groups import signals_as_interrupt
from harness.process.revision import Revision
from harness.results.doubts import unsteady_machine
from harness.results.file import save
from harness.results.no_op import no_op_server
from harness.results.rows import Rate, Row
from harness.results.schema import (
    Capacity,
    Results,
    VariantResult,
    WindowRecord,
    at_revision,
    script_and_revision,
)
from harness.results.summary import RESOLUTION_PERCENT, record_of, row_of, with_intervals
from harness.suite import CannotMeasureError, Suite

FILE_NAME = "benchmark_results.json"
CONTROL = "A/A control"
ONE_EPOCH = "one epoch: the intervals are wide, and do not contain what launches differ by"
LEAST_EPOCHS = 3  # before a precision that was asked for can count as reached
OVERTIME = 1.05  # of --minutes, with a precision that was asked for
LONGEST_FLAG = 100_000  # bytes; Linux lets no argument have more than 131,072
WARMUP_S = 0.12  # after a thaw
WARMUP_ANSWERS = 2  # per connection, likewise


def run(
    suite: Suite,
    options: argparse.Namespace,
    console: Console,
    revision: Revision | None = None,
) -> Results:
    """Measure what the options ask for; saves after every block; Ctrl-C returns what is done. What
    is returned, percentiles with intervals, is the caller's to save.

    With another revision, that of --against, its servers are measured beside those of this code.

    Raises ServerFailedError if the server of --url does not answer, CannotMeasureError if the
    revision has none of the servers.
    """
    this = Run(suite, options, revision)
    console.print(this.outline())
    with (
        contextlib.suppress(KeyboardInterrupt),
        signals_as_interrupt(),  # for those who call this without the command line
        load_process() as run_load,
        progress(console) as announce,
    ):
        campaign = Campaign(
            this.plan,
            run_load,
            this.gpu,
            room(this.gpu),
            announce,
            failure_printer(console),
            tolerant(this.save, failure_printer(console)),
            this.unsettled,
        )
        this.measured = campaign.measured
        campaign.measure()
        this.complete = True
    this.over = True
    return this.results()


class Run:
    """A run in progress: its plan, and the results that follow from what was measured so far."""

    def __init__(
        self, suite: Suite, options: argparse.Namespace, revision: Revision | None = None
    ) -> None:
        self.suite, self.options, self.revision = suite, options, revision
        self.new = new_scripts(suite, options.variants, revision) if revision else []
        self.began = time.monotonic()
        self.started_utc = datetime.now(UTC).isoformat(timespec="seconds")
        self.gpu = gpu_reader(options.accelerator)
        self.machine = machine_record(self.gpu)
        self.builds_on = builds_on(suite, revision)
        self.plan = plan_of(suite, options, revision)
        self.measured = Measured()
        self.complete = False
        self.over = False  # only then are percentiles given intervals, which are bootstraps

    def outline(self) -> str:
        """What will be done and how long it should take."""
        plan, options = self.plan, self.options
        kind = "offered rate" if options.rate else "concurrency"
        loads = ", ".join(load.name for load in plan.loads)
        gpus = ", ".join(self.machine["gpus"]) or "no GPU in use"
        sets = ", ".join(self.machine["instruction_sets"] or [])
        sets = f" ({sets})" if sets else ""
        seconds = plan.seconds + plan.capacity_seconds
        minutes = f"{seconds / 60:g} min"
        if plan.slo_p99_ms:
            minutes += f", half of it for capacities at p99 {plan.slo_p99_ms:g} ms"
        most = math.ceil(seconds / 60 + plan.epochs * self.suite.extra_minutes)
        how_long = f"{minutes}, {plan.epochs} epoch(s), up to about {most} min in all"
        if options.precision:
            how_long = f"until every verdict is known to {options.precision:g} %, at most {minutes}"
        return (
            f"{self.suite.name}: {', '.join(spec.name for spec in plan.servers)}\n"
            f"{kind} {loads}; {self.suite.request}, {len(self.suite.bodies)} different requests\n"
            f"machine: {self.machine['cpu']}{sets}, {self.machine['usable_cores']} usable cores, "
            f"{gpus}\n"
            f"{how_long}; results in {options.output_dir}"
            + "".join(f"\n{line}" for line in self.about_revision())
        )

    def about_revision(self) -> list[str]:
        """What this code is measured against, and what that does not have; nothing without."""
        if not self.revision:
            return []
        name, commit = self.revision.name, self.revision.commit
        new = [f"{each} is new: {name} has no server_{each}.py" for each in self.new]
        return [f"this code against {name}, commit {commit}, in the same blocks", *new]

    def save(self) -> None:
        """Write what was measured so far, if anything was."""
        results = self.results()
        if results.variants:
            save(results, self.options.output_dir / FILE_NAME)

    def unsettled(self) -> list[OfferedLoad]:
        """The loads to go on with: those with a verdict that is not yet known as well as was asked;
        on width, never on significance. None where one more epoch would not end in time.
        """
        epochs = len({window.epoch for window in self.windows()})
        if not self.options.precision or epochs < LEAST_EPOCHS:
            return self.plan.loads
        most_s = OVERTIME * (self.plan.seconds + self.plan.capacity_seconds)
        if self.measured.seconds * (1 + 1 / epochs) > most_s:
            return []
        widest = widest_percent(self.results().verdicts)
        return [
            load
            for load in self.plan.loads
            if widest.get(load.name, math.inf) > self.options.precision
        ]

    def windows(self) -> list[WindowRecord]:
        """Every window so far, raw, in the order in which they were measured."""
        measured = [
            (
                window.load.opened,
                record_of(server, record.variant, load, window, self.suite.stage_names),
            )
            for server, record in self.measured.records.items()
            for load, windows in record.windows.items()
            for window in windows
        ]
        return [record for _, record in sorted(measured, key=itemgetter(0))]

    def results(self) -> Results:
        """Everything measured so far."""
        windows = self.windows()
        fits = load_fits(windows, [load.name for load in self.plan.loads])
        measured = {record.variant for record in self.measured.records.values()}
        names = [name for name in dict.fromkeys([*self.builds_on, *measured]) if name in measured]
        settings = {
            name: value for name, value in vars(self.options).items() if name != "output_dir"
        }
        results = Results(
            suite=self.suite.name,
            package=self.suite.package,
            unit=self.suite.unit,
            request=self.suite.request,
            notes=[
                *self.suite.notes,
                *self.about_revision(),
                *([ONE_EPOCH] if self.plan.epochs == 1 else []),
                *self.dropped(),
            ],
            started_utc=self.started_utc,
            elapsed_s=round(time.monotonic() - self.began, 1),
            complete=self.complete,
            machine=self.machine,
            settings={n: str(v) if isinstance(v, Path) else v for n, v in settings.items()},
            measured_s=round(self.measured.seconds, 1),
            aa_control={},
            variants={name: self.variant(name, fits) for name in names},
            verdicts=[],
            windows=windows,
            capacity_windows=list(self.measured.capacity_windows),
            against_commit=self.revision and self.revision.commit,
        )
        results = judged(results)
        return replace(results, notes=[*results.notes, *self.at_the_end(results)])

    def dropped(self) -> list[str]:
        """How many windows do not count, and why."""
        reasons = self.measured.dropped
        return [f"{len(reasons)} window(s) dropped: {'; '.join(reasons)}"] if reasons else []

    def at_the_end(self, results: Results) -> list[str]:
        """Where a precision was asked for and not reached, and whether the machine was steady;
        nothing before the end.
        """
        if not self.over:
            return []
        asked, widest, missed = self.options.precision, widest_percent(results.verdicts), []
        if wide := [load for load, width in widest.items() if asked and width > asked]:
            where = ", ".join(wide)
            missed = [f"--precision {asked:g} was not reached at {where}: give it more --minutes"]
        return [*missed, *unsteady_machine(results.windows)]

    def variant(self, name: str, fits: dict[str, LoadFit]) -> VariantResult:
        """What is known of one variant."""
        records = self.records_of(name)
        in_process = mean(rate for record in records for _, _, rate in record.in_process)
        per_request = self.suite.output_per_request
        server = next((record.server for record in records if record.server), {})
        memory = max((record.memory for record in records), key=total_bytes, default={})
        most = max((load.concurrency or 1 for load in self.plan.loads), default=1)
        return VariantResult(
            builds_on=self.builds_on.get(name),
            server=server,
            startup_s=mean(seconds for record in records for seconds in record.startups_s),
            error=next((record.error for record in records if record.error), None),
            in_process_per_second=in_process and per_request * in_process,
            no_op_server=no_op_server(self.measured.no_ops, shape_of(server), OfferedLoad(most)),
            capacity=self.unknown_capacity(records),
            memory=memory or None,
            own=self.suite.variant(name, self.records_beside(name)),
            rows=[
                self.row(load, windows, rate, memory)
                for load in self.plan.loads
                if (windows := [each for record in records for each in record.at(load.name)])
                for rate in [fits[load.name].rate(name) if load.name in fits else Rate(0.0)]
            ],
        )

    def unknown_capacity(self, records: list[Record]) -> Capacity | None:
        """What is known before its windows are judged; None if nobody asked, or it never ran."""
        slo_p99_ms = self.plan.slo_p99_ms
        asked = slo_p99_ms and any(record.windows for record in records)
        return Capacity(slo_p99_ms, None, None, None) if asked else None

    def row(
        self,
        load: OfferedLoad,
        windows: list[Window],
        rate: Rate,
        memory: dict[str, RoleMemory],
    ) -> Row:
        """The row of a variant under one load."""
        row = row_of(
            load,
            windows,
            rate,
            self.suite.output_per_request,
            self.suite.row(windows),
            self.suite.stage_names,
            total_bytes(memory) or None,
            self.options.precision or RESOLUTION_PERCENT,
        )
        row = replace(row, worker_memory_bytes=worker_bytes(memory))
        if not self.over:
            return row
        own = self.suite.with_intervals(row.own, windows)
        return with_intervals(replace(row, own=own), windows)

    def records_of(self, name: str) -> list[Record]:
        """The records of a variant's servers; the A/A control counts for the baseline."""
        return [record for record in self.measured.records.values() if record.variant == name]

    def records_beside(self, name: str) -> dict[str, list[Record]]:
        """By variant, all records; under a script's name, those of this variant's revision."""
        names = dict.fromkeys(record.variant for record in self.measured.records.values())
        revision = script_and_revision(name)[1]
        beside = {
            script: self.records_of(other)
            for other in names
            for script, at in [script_and_revision(other)]
            if at == revision
        }
        return {other: self.records_of(other) for other in names} | beside


def script(suite: Suite, variant: str) -> str:
    """The module that serves a variant."""
    return suite.server(variant)[0]


def new_scripts(suite: Suite, variants: list[str], revision: Revision) -> list[str]:
    """Which of the variants the other revision does not have; CannotMeasureError if all of them."""
    for package in (__package__, suite.package):
        if not revision.has(package):
            folder = package.replace(".", "/")
            raise CannotMeasureError(f"{revision.name} has no {folder}/ to measure against")
    new = [name for name in variants if not revision.has(script(suite, name))]
    if len(new) == len(variants):
        lacking = ", ".join(f"server_{name}.py" for name in new)
        raise CannotMeasureError(f"{revision.name} has nothing to measure against: no {lacking}")
    return new


def builds_on(suite: Suite, revision: Revision | None) -> dict[str, str | None]:
    """By variant, in reading order, the one it is compared with: the one it is the difference to,
    or itself at the other revision.
    """
    if not revision:
        return dict(suite.variants)
    under: dict[str, str | None] = {}
    for name, _ in suite.variants:
        other = at_revision(name, revision.name)
        under |= {name: other, other: None} if revision.has(script(suite, name)) else {name: None}
    return under


def plan_of(suite: Suite, options: argparse.Namespace, revision: Revision | None = None) -> Plan:
    """What the options ask for, with the suite's requests."""
    attached = suite.attached(options.url) if options.url else None
    rates = [OfferedLoad(None, rate) for rate in options.rate or []]
    common = shared_flags(options.accelerator, options.api_servers)
    answers = () if suite.carries_output else answer_flags(suite.sample_answer)
    named = attached and attached.info.get("variant", "server")
    specs = servers(suite, options, common, named, revision)
    asked = {spec.variant for spec in specs}
    most_epochs = max(1, round(options.minutes / suite.epoch_minutes))
    epochs = most_epochs if options.precision else options.epochs
    return Plan(
        servers=specs,
        attached=attached,
        job=Job(
            url="",
            bodies=suite.bodies,
            headers=key_header() | suite.headers,
            duration_s=suite.window_s,
            warmup_s=WARMUP_S,
            warmup_answers=1 if suite.carries_output else WARMUP_ANSWERS,
            timeout_s=options.timeout,
            min_requests=suite.min_requests,
            check=suite.check,
            carries_output=suite.carries_output,
            outputs_told=suite.outputs_told,
            events_of=suite.events_of,
            seed=options.seed,
        ),
        path=suite.path,
        sample_answer=suite.sample_answer,
        loads=rates or [OfferedLoad(concurrency) for concurrency in options.concurrency],
        epochs=1 if attached else epochs,
        seconds=60 * options.minutes,
        seed=options.seed,
        slo_p99_ms=options.slo_p99_ms,
        capacity_seconds=60 * options.minutes if options.slo_p99_ms else 0.0,
        # works on no device, and would load torch to look for one
        no_op_flags=shared_flags("cpu", options.api_servers) + answers,
        no_op_bodies=suite.no_op_bodies or suite.bodies,
        prepare=lambda: suite.prepare([name for name, _ in suite.variants if name in asked]),
        in_process=suite.in_process,
    )


def servers(
    suite: Suite,
    options: argparse.Namespace,
    common: tuple[str, ...],
    attached: str | None,
    revision: Revision | None = None,
) -> list[ServerSpec]:
    """The servers of an epoch: every variant asked for, the baseline's A/A control, and those
    variants at the other revision.
    """
    if attached:
        return [ServerSpec(attached, attached, "", ())]
    baseline = suite.variants[0].name
    names = {name: name for name in options.variants}
    if baseline in names and (revision or len(names) > 1):
        names[CONTROL] = baseline
    specs = [spec_of(suite, name, variant, common) for name, variant in names.items()]
    if revision:
        names = {name: at_revision(name, revision.name) for name in options.variants}
        specs += [
            spec_of(suite, other, name, common)._replace(variant=other, root=revision.root)
            for name, other in names.items()
            if revision.has(script(suite, name))
        ]
    return specs


def shared_flags(accelerator: str | None, api_servers: int) -> tuple[str, ...]:
    """What every server is started with, the no-op servers included."""
    where = ("--accelerator", accelerator) if accelerator else ()
    return (*where, "--api-servers", str(api_servers))


def spec_of(suite: Suite, name: str, variant: str, common: tuple[str, ...]) -> ServerSpec:
    """A server of that variant, under that name."""
    module, flags = suite.server(variant)
    return ServerSpec(name, variant, module, common + flags)


def answer_flags(answer: bytes) -> tuple[str, str]:
    """What makes the no-op server answer this, or as much where no command line could hold it."""
    if len(answer) <= LONGEST_FLAG:
        with contextlib.suppress(ValueError):
            json.loads(answer)
            return "--answer", answer.decode()
    return "--answer-bytes", str(len(answer))


@contextlib.contextmanager
def progress(console: Console) -> Iterator[Callable[[str, float], None]]:
    """A progress bar, or a line per step where there is no terminal; call what this yields with the
    step that begins and the share done.
    """
    if not console.is_terminal:
        began = time.monotonic()

        def tell(step: str, _share: float) -> None:
            minutes, seconds = divmod(int(time.monotonic() - began), 60)
            console.print(f"{minutes:3}:{seconds:02} {step}", markup=False)

        yield tell
        return
    columns = TextColumn("{task.description:>36}"), BarColumn(), TimeElapsedColumn()
    # refreshed by hand between windows: a progress bar that moves takes CPU from the server
    with Progress(*columns, console=console, auto_refresh=False) as bar:
        task = bar.add_task("", total=1.0)

        def announce(step: str, share: float) -> None:
            bar.update(task, completed=share, description=step, refresh=True)

        yield announce
        announce("done", 1.0)


def failure_printer(console: Console) -> Callable[[str, str], None]:
    """Says that a server failed, and why."""

    def report_failure(name: str, reason: str) -> None:
        console.print(f"[red]{name}[/red] failed: ", end="")
        console.print(reason, markup=False)

    return report_failure


def tolerant(
    save_results: Callable[[], None], report_failure: Callable[[str, str], None]
) -> Callable[[], None]:
    """Saves, or says why not, once until it succeeds: a full disk does not stop the measuring."""
    failing = False

    def attempt() -> None:
        nonlocal failing
        try:
            save_results()
            failing = False
        except OSError as error:
            if not failing:
                report_failure("saving", f"{error}; measuring goes on, the next block tries again")
            failing = True

    return attempt
