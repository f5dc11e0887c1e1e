"""How a run is arranged: rounds of freshly launched servers in shuffled order, the baseline twice in each round (A/A).

Drift of the machine and the luck of one launch so fall on all variants alike, and what two launches of the same server
differ by is the noise floor. Results are saved after every turn.
"""

import argparse
import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness.judge.advice import advice
from harness.measure.capacity import capacity
from harness.process.groups import sigterm_as_interrupt
from harness.measure.gpu import GpuReader, gpu_reader
from harness.process.launch import Server, ServerFailedError, attached_server, running_server
from harness.results.summary import Measurement, Record, summarised
from harness.load.job import Job, Load, load_process
from harness.measure.machine import machine_record
from harness.measure.no_op import Nulls, answer_flags, null_job, null_levels, shape_of
from harness.load.echo_server import responder
from harness.results.file import save
from harness.results.run import Results, VariantResult
from harness.suite import LoadLevel, Suite
from harness.measure.utilisation import Sampler
from harness.judge.verdicts import noise_floors, verdicts

AGAIN = "baseline (again)"  # the second baseline of a round
NULL = "null_server"
BETWEEN_LEVELS_S = 0.4
CEILING_S = 1.0
OPEN_LOOP_CEILING_AT = 64  # requests in flight
NULLS_S, SEARCH_S = 25, 60  # per round and per variant, about, for the plan


def run(suite: Suite, options: argparse.Namespace, console: Console) -> Results:
    """Measure what the options ask for; saves after every turn; Ctrl-C returns what is done.

    Raises ServerFailedError if the server of --url does not answer.
    """
    campaign = Campaign(suite, options, console)
    console.print(campaign.plan())
    with contextlib.suppress(KeyboardInterrupt), sigterm_as_interrupt(), load_process() as run_load:
        campaign.measure(run_load)
    results = campaign.results()
    if results.variants:
        save(results, campaign.path)
    return results


class Campaign:
    """A run in progress."""

    def __init__(self, suite: Suite, options: argparse.Namespace, console: Console) -> None:
        self.suite, self.options, self.console = suite, options, console
        self.began, self.started_utc = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
        self.gpu: GpuReader | None = gpu_reader()
        self.machine = machine_record(self.gpu.names if self.gpu else [])
        self.levels = [LoadLevel(None, rate) for rate in options.rate or []]
        self.levels = self.levels or [LoadLevel(concurrency, None) for concurrency in options.concurrency]
        self.records: dict[str, Record] = defaultdict(Record)
        self.nulls = Nulls()
        self.ceilings: dict[str, float] = {}
        self.complete = False
        self.attached = attached_server(options.url) if options.url else None

    @property
    def path(self) -> Path:
        """Where the results go."""
        return self.options.output_dir / "benchmark_results.json"

    def turns(self) -> list[tuple[int, str]]:
        """(round, variant) in the order of their turns."""
        if self.attached:
            return [(round_, self.attached_name()) for round_ in range(self.options.rounds)]
        baseline = self.suite.variants[0].name
        twice = baseline in self.options.variants and self.options.rounds > 1  # one round carries no verdict anyway
        names = self.options.variants + ([AGAIN] if twice else [])
        order = random.Random(self.options.seed)
        return [(round_, name) for round_ in range(self.options.rounds) for name in order.sample(names, len(names))]

    def searches(self) -> list[str]:
        """The variants whose capacity is searched, each once: the search repeats its windows itself."""
        asked = dict.fromkeys(name for _, name in self.turns() if name != AGAIN)
        return list(asked) if self.options.slo_p99_ms else []

    def attached_name(self) -> str:
        """The variant that the server of --url says it is."""
        return self.attached.info.get("variant", "server")

    def plan(self) -> str:
        """What will be done and how long it should take."""
        level_s = self.options.duration + self.options.warmup + BETWEEN_LEVELS_S
        seconds = len(self.turns()) * (
            len(self.levels) * level_s + (0 if self.attached else self.suite.turn_overhead_s)
        )
        seconds += SEARCH_S * len(self.searches()) + (0 if self.attached else NULLS_S * self.options.rounds)
        kind = "requests per second offered" if self.options.rate else "requests in flight"
        return (
            f"{self.suite.name}: {', '.join(dict.fromkeys(name for _, name in self.turns()))}\n"
            f"{self.options.rounds} round(s) of {kind} {', '.join(level.name for level in self.levels)}, "
            f"{self.options.duration:g} s each; {self.suite.request}, "
            f"{len(self.suite.bodies)} different requests\n"
            f"machine: {self.machine['cpu']}, {self.machine['usable_cores']} usable cores, "
            f"{', '.join(self.machine['gpus']) or 'no GPU'}\n"
            f"about {1 + seconds // 60:.0f} min; results in {self.options.output_dir}"
        )

    def measure(self, run_load: Callable[..., Load]) -> None:
        """What needs no server, all turns with LitServe around nothing after each round, and the searches."""
        columns = TextColumn("{task.description:>28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        # refreshed by hand between measurements: a progress bar that moves takes CPU from the server
        with Progress(*columns, console=self.console, auto_refresh=False) as progress:
            task = progress.add_task(
                "client and models", total=len(self.turns()) + self.options.rounds + len(self.searches()) + 1
            )
            progress.refresh()
            self.measure_client(run_load)
            self.prepare()
            for round_, turns in groupby(self.turns(), itemgetter(0)):
                for _, name in turns:
                    progress.update(task, advance=1, description=f"round {round_ + 1}: {name}", refresh=True)
                    self.take_turn(round_, name, run_load)
                    save(self.results(), self.path)
                progress.update(task, advance=1, description=f"round {round_ + 1}: {NULL}", refresh=True)
                self.measure_nulls(run_load)
            for name in self.searches():
                progress.update(task, advance=1, description=f"capacity: {name}", refresh=True)
                self.search_capacity(name, run_load)
                save(self.results(), self.path)
            progress.update(task, advance=1, description="done", refresh=True)
        self.complete = True

    def measure_client(self, run_load: Callable[..., Load]) -> None:
        """What this client can measure at most: the same requests to a server that answers at once."""
        with responder(self.suite.sample_answer) as url:
            for level in self.levels:
                job = Job(
                    url, self.suite.bodies, level.concurrency or OPEN_LOOP_CEILING_AT, CEILING_S, 0.2,
                    check=self.suite.check, carries_output=self.suite.carries_output,
                )  # fmt: skip
                load = run_load(job)
                self.ceilings[level.name] = len(load.ended) / load.window_s

    def prepare(self) -> None:
        """What the suite measures without a server."""
        asked = {name for _, name in self.turns()}
        names = [variant.name for variant in self.suite.variants if variant.name in asked]
        if names:
            self.suite.prepare(names)

    def take_turn(self, round_: int, name: str, run_load: Callable[..., Load]) -> None:
        """Launch a variant and measure every level."""
        record = self.records[name]
        with self.failures_of(name):
            with self.server(name) as server:
                record.server = server.info
                record.figures.append(told_figures(server))
                if server.startup_s is not None:
                    record.startups_s.append(server.startup_s)
                for level in self.levels:
                    ceiling = self.ceilings.get(level.name)
                    measurement = self.measured(server, self.job(server, level), ceiling, run_load)
                    record.measurements[level.name].append((round_, measurement))
                    if not measurement.load.right_in_window:
                        raise ServerFailedError(f"no right answer at level {level.name}{server.tail()}")
            rate = None if self.attached else self.suite.in_process(self.script_of(name))
            if rate is not None:
                record.in_process[round_] = rate

    @contextlib.contextmanager
    def failures_of(self, name: str) -> Iterator[None]:
        """Keep a failure of a variant's turn with its reason, and go on."""
        try:
            yield
        except (ServerFailedError, RuntimeError) as error:  # the latter from the model in process, out of memory mostly
            self.records[name].error = str(error)
            self.console.print(f"[red]{name}[/red] failed: ", end="")
            self.console.print(str(error), markup=False)

    def measure_nulls(self, run_load: Callable[..., Load]) -> None:
        """Launch LitServe around nothing, once for each way in which a variant is set up."""
        shapes = {shape for record in self.records.values() if (shape := shape_of(record.server))}
        for shape in () if self.attached else sorted(shapes):
            flags = (*self.flags, *shape.flags, *answer_flags(self.suite))
            try:
                with running_server("harness.serving.no_op_server", *flags) as server:
                    for level in null_levels(self.options.concurrency):
                        job = null_job(self.job(server, level), server.url)
                        self.nulls.add(shape, level, self.measured(server, job, None, run_load))
            except ServerFailedError as error:  # rows without a floor say so themselves
                self.console.print(f"{NULL} failed: {error}", markup=False, style="red")

    def search_capacity(self, name: str, run_load: Callable[..., Load]) -> None:
        """Launch a variant once more, and find the rate at which it still keeps the promise."""
        with self.failures_of(name), self.server(name) as server:
            self.records[name].capacity = capacity(self.job(server), run_load, self.options.slo_p99_ms)

    @contextlib.contextmanager
    def server(self, name: str) -> Iterator[Server]:
        """The server of one turn."""
        if self.attached:
            yield self.attached
            return
        module = f"{self.suite.package}.server_{self.script_of(name)}"
        with running_server(module, *self.flags, *self.suite.server_flags) as server:
            yield server

    @property
    def flags(self) -> tuple[str, ...]:
        """What every server is launched with."""
        return "--accelerator", self.options.accelerator, "--api-servers", str(self.options.api_servers)

    def script_of(self, name: str) -> str:
        """The variant whose server takes this turn."""
        return self.suite.variants[0].name if name == AGAIN else name

    def job(self, server: Server, level: LoadLevel = LoadLevel(1, None)) -> Job:  # noqa: B008 - it is frozen
        """The suite's requests to this server, under this load."""
        return Job(
            server.url + self.suite.path, self.suite.bodies, level.concurrency or 1, self.options.duration,
            self.options.warmup, level.rate, self.options.timeout, self.suite.min_requests, self.suite.check,
            self.suite.carries_output, self.options.seed,
        )  # fmt: skip

    def measured(self, server: Server, job: Job, ceiling: float | None, run_load: Callable[..., Load]) -> Measurement:
        """One level of one turn; the server's identity is checked before and after."""
        warm = []  # the workers' totals when the warm-up is over: what they did before is not measured
        with Sampler(server.pid, server.stats(), self.gpu) as sampler:
            load = run_load(job, lambda: warm.append(server.stats()))
        return Measurement(load, sampler.usage(load.opened, load.closed), warm[0], server.stats(), ceiling)

    def results(self) -> Results:
        """Everything measured so far."""
        builds_on = {variant.name: variant.builds_on for variant in self.suite.variants}
        settings = {key: value for key, value in vars(self.options).items() if key != "output_dir"}  # no measurement
        levels, baseline = [level.name for level in self.levels], self.suite.variants[0].name
        twice = {baseline, AGAIN} <= self.records.keys()
        floors = noise_floors(self.records[baseline], self.records[AGAIN], levels) if twice else {}
        found = Results(
            suite=self.suite.name,
            started_utc=self.started_utc,
            elapsed_s=round(time.monotonic() - self.began, 1),
            complete=self.complete,
            machine=self.machine,
            settings={key: str(value) if isinstance(value, Path) else value for key, value in settings.items()},
            noise_floor_percent=floors,
            variants={
                name: self.variant_result(name, builds_on.get(name))
                for name in [*builds_on, *self.records] if name in self.records and name != AGAIN
            },
            verdicts=verdicts(self.suite.variants, levels, self.records_of, floors),
        )  # fmt: skip
        return replace(found, advice=advice(found))

    def variant_result(self, name: str, builds_on: str | None) -> VariantResult:
        """The part of one variant."""
        together = {known: self.records_of(known) for known in self.records}
        records = together[name]
        shape = shape_of(self.records[name].server)
        floor = self.nulls.floor(shape)
        startups_s = [seconds for record in records for seconds in record.startups_s]
        levels = []
        for level in self.levels:
            measured = [measurement for record in records for _, measurement in record.measurements[level.name]]
            if measured:
                levels.append(self.suite.level(summarised(level.concurrency, level.rate, measured, floor), measured))
        common = {
            "builds_on": builds_on,
            "server": self.records[name].server,
            "startup_s": sum(startups_s) / len(startups_s) if startups_s else None,
            "null_server": self.nulls.result(shape, self.options.concurrency),
            "capacity": records[0].capacity,
            "error": next((record.error for record in records if record.error), None),
        }
        return self.suite.variant(name, common, levels, together)

    def records_of(self, name: str) -> list[Record]:
        """The records of a variant, if it has any; the baseline's second turns count for it too."""
        names = [name, AGAIN] if name == self.suite.variants[0].name else [name]
        return [self.records[known] for known in names if known in self.records]


def told_figures(server: Server) -> dict[str, float]:
    """What the first worker told about itself after setup."""
    stats = server.stats()
    return stats["workers"][0]["figures"] if stats else {}
