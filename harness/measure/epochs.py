"""How a run is arranged: epochs in which every server is launched once, in random order.

The baseline is launched twice in each epoch (A/A control). Drift of the machine and the luck of a
launch so fall on all variants alike, and what two launches of the same server differ by is the
noise floor.
"""

import contextlib
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.load.echo_server import echo_server
from harness.load.job import Job, LoadResult
from harness.measure.capacity import Capacity, capacity
from harness.measure.gpu import GpuReader
from harness.measure.no_op import (
    MODULE,
    NoOpWindows,
    Shape,
    no_op_job,
    no_op_loads,
    shape_of,
)
from harness.measure.utilisation import Sampler
from harness.measure.window import OfferedLoad, Record, Window, work_between
from harness.process.launch import Server, ServerFailedError, running_server

CLIENT_CEILING_S, CLIENT_CEILING_WARMUP_S = 1.0, 0.2
OPEN_LOOP_CEILING_AT = 64  # concurrency
NO_OP = "no-op server"
RunLoad = Callable[..., LoadResult]


class ServerSpec(NamedTuple):
    """A server to launch once per epoch.

    Attributes:
        name: in the records; the A/A control has one of its own.
        variant: whose script it is.
        module: the script.
        flags: its command line.
    """

    name: str
    variant: str
    module: str
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        servers: to launch; the one of --url alone, if there is one.
        attached: the server of --url; None to launch.
        job: the requests, without URL and offered load.
        path: where they are POSTed.
        sample_answer: for the echo server.
        loads: the offered loads, in order.
        epochs: how often every server is launched.
        seed: of the order of launches.
        slo_p99_ms: the SLO under which capacity is searched; None not to search.
        no_op_flags: of the no-op server, besides its shape.
        in_process: a variant's requests/s without a server; None if it is not measured.
    """

    servers: list[ServerSpec]
    attached: Server | None
    job: Job
    path: str
    sample_answer: bytes
    loads: list[OfferedLoad]
    epochs: int
    seed: int
    slo_p99_ms: float | None
    no_op_flags: tuple[str, ...]
    in_process: Callable[[str], float | None]

    def order(self) -> list[list[ServerSpec]]:
        """The servers of each epoch in the order of their launches."""
        order = random.Random(self.seed)
        return [order.sample(self.servers, len(self.servers)) for _ in range(self.epochs)]

    def searched(self) -> list[ServerSpec]:
        """Whose capacity is searched, one per variant: the search repeats its windows itself."""
        first = {spec.variant: spec for spec in reversed(self.servers)}
        return [spec for spec in self.servers if spec is first[spec.variant] and self.slo_p99_ms]

    @property
    def steps(self) -> int:
        """How many launches and searches there are."""
        return self.epochs * (len(self.servers) + (not self.attached)) + len(self.searched())


class Campaign:
    """Measuring in progress.

    Attributes:
        records: of each server, by its name.
        capacities: by the server's name.
        no_ops: of the no-op servers.
    """

    def __init__(
        self,
        plan: Plan,
        run_load: RunLoad,
        gpu: GpuReader | None,
        announce: Callable[[str], None],
        report_failure: Callable[[str, str], None],
    ) -> None:
        self.plan, self.run_load, self.gpu = plan, run_load, gpu
        self.announce, self.report_failure = announce, report_failure
        self.records: dict[str, Record] = defaultdict(Record)
        self.capacities: dict[str, Capacity] = {}
        self.no_ops = NoOpWindows()
        self.client_ceilings: dict[OfferedLoad, float] = {}

    def measure(self, save: Callable[[], None]) -> None:
        """All launches, no-op servers after each epoch, then the searches; `save` after each."""
        self.measure_client()
        for epoch, servers in enumerate(self.plan.order()):
            for spec in servers:
                self.announce(f"epoch {epoch + 1}: {spec.name}")
                self.measure_server(epoch, spec)
                save()
            if not self.plan.attached:
                self.announce(f"epoch {epoch + 1}: {NO_OP}")
                self.measure_no_ops(epoch)
        for spec in self.plan.searched():
            self.announce(f"capacity: {spec.name}")
            self.search_capacity(spec)
            save()

    def measure_client(self) -> None:
        """What this client can measure at most: the same requests to the echo server."""
        with echo_server(self.plan.sample_answer) as url:
            for offered in self.plan.loads:
                job = replace(
                    self.plan.job,
                    url=url,
                    concurrency=offered.concurrency or OPEN_LOOP_CEILING_AT,
                    duration_s=CLIENT_CEILING_S,
                    warmup_s=CLIENT_CEILING_WARMUP_S,
                )
                load = self.run_load(job)
                self.client_ceilings[offered] = len(load.ended) / load.window_s

    def measure_server(self, epoch: int, spec: ServerSpec) -> None:
        """Launch a server and measure it under every load, then the same work without a server."""
        record = self.records[spec.name]
        with self.failures_of(spec.name):
            with self.server(spec) as server:
                record.server = server.info
                if stats := server.stats():
                    record.setup_metrics.append(stats["workers"][0]["setup_metrics"])
                if server.startup_s is not None:
                    record.startups_s.append(server.startup_s)
                for offered in self.plan.loads:
                    window = self.window(server, self.job(server, offered), epoch)
                    ceiling = self.client_ceilings.get(offered)
                    record.add(offered, replace(window, client_ceiling=ceiling))
                    if not window.load.correct_in_window:
                        reason = f"no correct answer at {offered.name}{server.tail()}"
                        raise ServerFailedError(reason)
            rate = None if self.plan.attached else self.plan.in_process(spec.variant)
            if rate is not None:
                record.in_process[epoch] = rate

    @contextlib.contextmanager
    def failures_of(self, name: str) -> Iterator[None]:
        """Keep the reason why a server could not be measured to the end, and go on."""
        try:
            yield
        # RuntimeError: from the model in process, out of memory mostly
        except (ServerFailedError, RuntimeError) as error:
            self.records[name].error = str(error)
            self.report_failure(name, str(error))

    def measure_no_ops(self, epoch: int) -> None:
        """Launch the no-op server once for each way in which a server of this run is set up."""
        shapes = {shape for record in self.records.values() if (shape := shape_of(record.server))}
        for shape in sorted(shapes):
            try:
                self.measure_no_op(shape, epoch)
            except ServerFailedError as error:  # rows without its ceiling say so themselves
                self.report_failure(NO_OP, str(error))

    def measure_no_op(self, shape: Shape, epoch: int) -> None:
        """Launch it in one shape, and keep what it cost and let through."""
        with running_server(MODULE, *self.plan.no_op_flags, *shape.flags) as server:
            for offered in no_op_loads(self.plan.loads):
                job = no_op_job(self.job(server, offered), server.url)
                window = self.window(server, job, epoch)
                if not window.load.correct_in_window:
                    raise ServerFailedError(f"no answer at {offered.name}{server.tail()}")
                self.no_ops.add(shape, offered, window)

    def search_capacity(self, spec: ServerSpec) -> None:
        """Launch a server once more, and find the rate at which it still keeps the SLO."""
        with self.failures_of(spec.name), self.server(spec) as server:
            job = self.job(server, OfferedLoad(1))
            self.capacities[spec.name] = capacity(job, self.run_load, self.plan.slo_p99_ms)

    @contextlib.contextmanager
    def server(self, spec: ServerSpec) -> Iterator[Server]:
        """The server of one launch."""
        if self.plan.attached:
            yield self.plan.attached
            return
        with running_server(spec.module, *spec.flags) as server:
            yield server

    def job(self, server: Server, offered: OfferedLoad) -> Job:
        """The requests to this server, under this load."""
        return replace(
            self.plan.job,
            url=server.url + self.plan.path,
            concurrency=offered.concurrency or 1,
            rate=offered.rate,
        )

    def window(self, server: Server, job: Job, epoch: int) -> Window:
        """One window; the server's identity is checked before and after."""
        warm = []  # totals once the warm-up is over: what the workers did before is not measured
        with Sampler(server.pid, server.stats(), self.gpu) as sampler:
            load = self.run_load(job, lambda: warm.append(server.stats()))
        workers, http = work_between(warm[0] if warm else None, server.stats())
        return Window(load, sampler.usage(load.opened, load.closed), workers, http, epoch=epoch)
