"""One run of a suite: plan, measure, put together what was measured so far after every launch."""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness.judge.advice import advice
from harness.judge.verdicts import noise_floors, verdicts
from harness.load.job import Job
from harness.load.run import load_process
from harness.measure.epochs import Campaign, Plan, ServerSpec
from harness.measure.gpu import gpu_reader
from harness.measure.machine import machine_record
from harness.measure.no_op import shape_of
from harness.measure.window import OfferedLoad, Record, mean
from harness.process.groups import signals_as_interrupt
from harness.process.launch import attached_server
from harness.results.file import save
from harness.results.no_op import no_op_server
from harness.results.run import Results, VariantResult
from harness.results.summary import rate, row_of
from harness.suite import Suite

FILE_NAME = "benchmark_results.json"
CONTROL = "A/A control"
BETWEEN_WINDOWS_S, NO_OPS_S, SEARCH_S = 0.4, 25, 60  # about: for the plan


def run(suite: Suite, options: argparse.Namespace, console: Console) -> Results:
    """Measure what the options ask for; saves after every launch; Ctrl-C returns what is done.

    Raises ServerFailedError if the server of --url does not answer.
    """
    this = Run(suite, options)
    console.print(this.outline())
    with (
        contextlib.suppress(KeyboardInterrupt),
        signals_as_interrupt(),
        load_process() as run_load,
        progress(console, 1 + this.plan.steps) as announce,
    ):
        announce("client and models")
        suite.prepare(this.variants)
        campaign = Campaign(this.plan, run_load, this.gpu, announce, failure_printer(console))
        this.campaign = campaign
        campaign.measure(this.save)
        this.complete = True
    this.save()
    return this.results()


class Run:
    """A run in progress: its plan, and the results that follow from what was measured so far."""

    def __init__(self, suite: Suite, options: argparse.Namespace) -> None:
        self.suite, self.options = suite, options
        self.began = time.monotonic()
        self.started_utc = datetime.now(UTC).isoformat(timespec="seconds")
        self.gpu = gpu_reader()
        self.machine = machine_record(self.gpu.names if self.gpu else [])
        self.builds_on = dict(suite.variants)
        self.baseline = suite.variants[0].name
        self.plan = plan_of(suite, options)
        self.campaign: Campaign | None = None
        self.complete = False

    @property
    def variants(self) -> list[str]:
        """The variants to measure that the suite knows, in its order."""
        asked = {spec.variant for spec in self.plan.servers}
        return [name for name in self.builds_on if name in asked]

    def outline(self) -> str:
        """What will be done and how long it should take."""
        plan, options = self.plan, self.options
        window_s = options.duration + options.warmup + BETWEEN_WINDOWS_S
        launch_s = len(plan.loads) * window_s + (0 if plan.attached else self.suite.launch_s)
        seconds = plan.epochs * (len(plan.servers) * launch_s + (0 if plan.attached else NO_OPS_S))
        seconds += SEARCH_S * len(plan.searched())
        kind = "offered rate" if options.rate else "concurrency"
        loads = ", ".join(load.name for load in plan.loads)
        gpus = ", ".join(self.machine["gpus"]) or "no GPU"
        return (
            f"{self.suite.name}: {', '.join(spec.name for spec in plan.servers)}\n"
            f"{plan.epochs} epoch(s) at {kind} {loads}, windows of {options.duration:g} s; "
            f"{self.suite.request}, {len(self.suite.bodies)} different requests\n"
            f"machine: {self.machine['cpu']}, {self.machine['usable_cores']} usable cores, {gpus}\n"
            f"about {1 + seconds // 60:.0f} min; results in {options.output_dir}"
        )

    def save(self) -> None:
        """Write what was measured so far, if anything was."""
        results = self.results()
        if results.variants:
            save(results, self.options.output_dir / FILE_NAME)

    def results(self) -> Results:
        """Everything measured so far."""
        records = self.campaign.records if self.campaign else {}
        loads = [load.name for load in self.plan.loads]
        both = {self.baseline, CONTROL} <= records.keys()
        floors = noise_floors(records[self.baseline], records[CONTROL], loads) if both else {}
        names = [name for name in dict.fromkeys([*self.builds_on, *records]) if name in records]
        settings = {
            name: value for name, value in vars(self.options).items() if name != "output_dir"
        }
        results = Results(
            suite=self.suite.name,
            package=self.suite.package,
            unit=self.suite.unit,
            request=self.suite.request,
            notes=list(self.suite.notes),
            started_utc=self.started_utc,
            elapsed_s=round(time.monotonic() - self.began, 1),
            complete=self.complete,
            machine=self.machine,
            settings={n: str(v) if isinstance(v, Path) else v for n, v in settings.items()},
            noise_floor_percent=floors,
            variants={name: self.variant(name) for name in names if name != CONTROL},
            verdicts=verdicts(self.builds_on, loads, self.records_of, floors),
        )
        return replace(results, advice=advice(results))

    def variant(self, name: str) -> VariantResult:
        """What is known of one variant."""
        records = self.records_of(name)
        in_process = [each for record in records for each in record.in_process.values()]
        per_request = self.suite.output_per_request
        server = self.campaign.records[name].server
        by_name = {each: self.records_of(each) for each in self.campaign.records}
        return VariantResult(
            builds_on=self.builds_on.get(name),
            server=server,
            startup_s=mean(seconds for record in records for seconds in record.startups_s),
            error=next((record.error for record in records if record.error), None),
            in_process_per_second=rate([per_request * each for each in in_process])
            if in_process
            else None,
            no_op_server=no_op_server(self.campaign.no_ops, shape_of(server)),
            capacity=self.campaign.capacities.get(name),
            own=self.suite.variant(name, by_name),
            rows=[
                row_of(load, windows, per_request, self.suite.row(windows), self.suite.stage_names)
                for load in self.plan.loads
                if (windows := [each for record in records for each in record.at(load.name)])
            ],
        )

    def records_of(self, name: str) -> list[Record]:
        """The records of a variant's servers; the A/A control counts for the baseline."""
        names = [name, CONTROL] if name == self.baseline else [name]
        records = self.campaign.records if self.campaign else {}
        return [records[each] for each in names if each in records]


def plan_of(suite: Suite, options: argparse.Namespace) -> Plan:
    """What the options ask for, with the suite's requests."""
    attached = attached_server(options.url) if options.url else None
    rates = [OfferedLoad(None, rate) for rate in options.rate or []]
    common = "--accelerator", options.accelerator, "--api-servers", str(options.api_servers)
    answers = () if suite.carries_output else ("--answer", suite.sample_answer.decode())
    return Plan(
        servers=servers(
            suite, options, common, attached and attached.info.get("variant", "server")
        ),
        attached=attached,
        job=Job(
            url="",
            bodies=suite.bodies,
            duration_s=options.duration,
            warmup_s=options.warmup,
            timeout_s=options.timeout,
            min_requests=suite.min_requests,
            check=suite.check,
            carries_output=suite.carries_output,
            seed=options.seed,
        ),
        path=suite.path,
        sample_answer=suite.sample_answer,
        loads=rates or [OfferedLoad(concurrency) for concurrency in options.concurrency],
        epochs=options.epochs,
        seed=options.seed,
        slo_p99_ms=options.slo_p99_ms,
        no_op_flags=common + answers,
        in_process=suite.in_process,
    )


def servers(
    suite: Suite, options: argparse.Namespace, common: tuple[str, ...], attached: str | None
) -> list[ServerSpec]:
    """The servers of an epoch: every variant asked for, and the baseline's A/A control."""
    if attached:
        return [ServerSpec(attached, attached, "", ())]
    baseline = suite.variants[0].name
    names = {name: name for name in options.variants}
    if baseline in names and options.epochs > 1:  # one epoch carries no verdict anyway
        names[CONTROL] = baseline
    flags = common + suite.server_flags
    return [
        ServerSpec(name, variant, f"{suite.package}.server_{variant}", flags)
        for name, variant in names.items()
    ]


@contextlib.contextmanager
def progress(console: Console, steps: int) -> Iterator[Callable[[str], None]]:
    """A progress bar; call what this yields at the beginning of every step."""
    columns = (
        TextColumn("{task.description:>28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # refreshed by hand between windows: a progress bar that moves takes CPU from the server
    with Progress(*columns, console=console, auto_refresh=False) as bar:
        task = bar.add_task("", total=steps, completed=-1)

        def announce(step: str) -> None:
            bar.update(task, advance=1, description=step, refresh=True)

        yield announce
        announce("done")


def failure_printer(console: Console) -> Callable[[str, str], None]:
    """Says that a server failed, and why."""

    def report_failure(name: str, reason: str) -> None:
        console.print(f"[red]{name}[/red] failed: ", end="")
        console.print(reason, markup=False)

    return report_failure
