"""How a run is arranged: epochs of launched servers, blocks of one load, windows of one server.

An epoch launches all servers, the baseline twice (A/A control; a single epoch measures one baseline
as both), warms each under load, and freezes them (SIGSTOP). A block draws a load; every
server is thawed in turn, measured for one short window, and frozen again, in an order that balances
who follows whom. Drift, noise and the luck of a launch so fall on all alike. The no-op servers, and
the same work without a server, join some blocks of the highest load: a ceiling and what stands
under it come from the same minutes. Where memory does not hold all servers, fewer are up at a time,
each time with a baseline beside them. Where capacity is asked for, an epoch ends with capacity
blocks: each server's windows are at rates of its own.
"""

import contextlib
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from harness.load.echo_server import echo_server
from harness.load.job import OK, Job, LoadResult
from harness.load.latency import latency_ms, request_counts
from harness.load.loop import Moment
from harness.measure.capacity import (
    FIRST_GUESS,
    WINDOWS,
    CapacityWindow,
    Search,
    Trial,
    late_answers,
    lone_job,
    offered_job,
)
from harness.measure.clocks import disturbance, read_clocks
from harness.measure.gpu import GpuReader
from harness.measure.no_op import LONE, MODULE, Shape, no_op_job, shape_of
from harness.measure.order import balanced_orders
from harness.measure.room import Memory, Room, lacked_memory
from harness.measure.stats import refuse_other_stats
from harness.measure.utilisation import Meter, ProcessTree, Reading, Usage, usage_between
from harness.measure.window import OfferedLoad, Record, Window, mean, work_between
from harness.process.launch import Launch, Server, ServerFailedError, launched
from harness.process.module_process import ProcessDiedError

CLIENT_CEILING_S = 0.25  # thousands of answers
OPEN_LOOP_CEILING_AT = 64  # concurrency
WARM_S = 0.3  # of each load that a new server is warmed with
WINDOW_REQUESTS = 6  # per connection, at the least
WINDOW_ARRIVALS = 200  # of an open loop: fewer are too far from their rate by chance
WINDOW_STREAMS = 2  # of all connections together: outputs are counted as they arrive
LONGEST_WINDOW = 10  # times as long as a window has to be, however few requests it holds
NO_OP = "no-op server"
LEAST_BLOCKS = 2  # of every load in each epoch, if there are few: one alone carries no interval
LATENCY_BLOCKS = 2  # of every variant at every load, at the least: for the same reason
FEW_EPOCHS = 2  # with more of them, one block of every load in each will do
CEILINGS_EVERY = 2  # blocks of the highest load: nothing is compared with a ceiling to the percent
CEILING_EPOCHS = 2  # likewise: later ones are for the verdicts alone
STARTING = 2  # servers at once, where it is known what each takes
FROZEN_CPU_S = 0.05  # what the kernel may still book on a process that has just been stopped
RunLoad = Callable[..., LoadResult]
T = TypeVar("T")


class ServerSpec(NamedTuple):
    """A server to launch once per epoch.

    Attributes:
        name: in the records; the A/A control has one of its own.
        variant: whose script it is.
        module: the script.
        flags: its command line.
        root: the checkout whose code it runs, if that is not this one.
    """

    name: str
    variant: str
    module: str
    flags: tuple[str, ...]
    root: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        servers: to launch; the one of --url alone, if there is one.
        attached: the server of --url; None to launch.
        job: the requests, without URL and offered load; duration_s is the least of a window.
        path: where they are POSTed.
        sample_answer: for the echo server.
        loads: the offered loads, in order.
        epochs: how often every server is launched; the most of it where `unsettled` decides.
        seconds: for all epochs, launches included, capacity blocks not.
        seed: of the order of loads and servers.
        slo_p99_ms: the SLO under which capacity is searched; None not to search.
        capacity_seconds: for the capacity blocks of all epochs, at most.
        no_op_flags: of the no-op server, besides its shape.
        no_op_bodies: what it is sent.
        prepare: what the suite measures without a server, once the first servers are up.
        in_process: a variant's requests/s without a server; None if it is not measured.
    """

    servers: list[ServerSpec]
    attached: Server | None
    job: Job
    path: str
    sample_answer: bytes
    loads: list[OfferedLoad]
    epochs: int
    seconds: float
    seed: int
    slo_p99_ms: float | None
    capacity_seconds: float
    no_op_flags: tuple[str, ...]
    no_op_bodies: list[bytes]
    prepare: Callable[[], None]
    in_process: Callable[[str], float | None]


class Starting(NamedTuple):
    """A server that was launched and may not be ready yet.

    Attributes:
        launch: None for the server of --url.
        exit: ends it.
        crowded: whether others than the baseline were up or starting before it.
        free: the memory that was left before; None if it does not start alone.
    """

    launch: Launch | None
    exit: ExitStack
    crowded: bool
    free: Memory | None


@dataclass
class Running:
    """A server that is up: frozen, but for the one that is measured.

    Attributes:
        server: launched here, or the one of --url.
        exit: ends it.
        tree: its processes; None if they are not on this machine.
        launched: here, so that it may be frozen.
        frozen_cpu_s: what it had used when it was last frozen; None while it runs.
    """

    server: Server
    exit: ExitStack
    tree: ProcessTree | None
    launched: bool
    frozen_cpu_s: float | None = None

    def freeze(self) -> None:
        """Stop all its processes."""
        if self.launched:
            self.server.freeze()
            self.frozen_cpu_s = sum(self.tree.cpu_s().values())

    def thaw(self) -> None:
        """Let it go on; ServerFailedError if it has ended, or has used CPU although frozen."""
        if self.frozen_cpu_s is None:
            return
        used_s = sum(self.tree.cpu_s().values()) - self.frozen_cpu_s
        self.frozen_cpu_s = None
        self.server.thaw()
        if used_s > FROZEN_CPU_S:
            raise ServerFailedError(f"used {used_s:.2f} s of CPU although it was frozen")


@dataclass
class Launches:
    """The servers of an epoch on their way up.

    Attributes:
        running: those that are up.
        starting: those that were launched and may not be ready yet, in order.
        cold: those that are up, frozen, and were not warmed yet.
        left: those that memory has no room for.
    """

    running: dict[ServerSpec, Running]
    starting: dict[ServerSpec, Starting] = field(default_factory=dict)
    cold: dict[ServerSpec, Starting] = field(default_factory=dict)
    left: list[ServerSpec] = field(default_factory=list)


@dataclass
class Measured:
    """What a campaign has measured so far.

    Attributes:
        records: of each server, by its name.
        no_ops: of each no-op server, by its shape.
        client_ceilings: requests/s that the client can measure at most, by load.
        capacity_windows: in order.
        dropped: why windows were dropped, one entry for each.
        seconds: of all epochs so far.
    """

    records: dict[str, Record] = field(default_factory=dict)
    no_ops: dict[Shape, Record] = field(default_factory=dict)
    client_ceilings: dict[OfferedLoad, float] = field(default_factory=dict)
    capacity_windows: list[CapacityWindow] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    seconds: float = 0.0


def any_correct(load: LoadResult) -> bool:
    """Whether a window holds any correct answer, or a part of one that was still arriving."""
    return bool(OK in load.outcome or load.correct_in_window or load.outputs_in_window)


def lasting(run_load: RunLoad) -> RunLoad:
    """A load generator that fails twice at one job costs its server that job, not all of them."""

    def run(*job: object) -> LoadResult:
        try:
            return run_load(*job)
        except (ProcessDiedError, TimeoutError) as error:
            raise ServerFailedError(f"the load generator failed twice: {error}") from error

    return run


class Campaign:
    """Measuring in progress.

    Args:
        room: whether memory has room for one more server.
        announce: called with the step that begins, and the share of the time that has passed.
        report_failure: called with the name of what failed, and why.
        save: called after every block.
        unsettled: the loads to measure in the next epoch; none to stop.
    """

    def __init__(
        self,
        plan: Plan,
        run_load: RunLoad,
        gpu: GpuReader | None,
        room: Room,
        announce: Callable[[str, float], None],
        report_failure: Callable[[str, str], None],
        save: Callable[[], None],
        unsettled: Callable[[], list[OfferedLoad]],
    ) -> None:
        self.plan, self.room = plan, room
        self.run_load = lasting(run_load)
        self.meter = Meter(gpu)
        self.announce, self.report_failure = announce, report_failure
        self.save, self.unsettled = save, unsettled
        self.random = random.Random(plan.seed)
        self.measured = Measured()
        self.rates: dict[tuple[str, OfferedLoad], float] = {}  # requests/s, for a window's length
        self.block_s: dict[OfferedLoad, float] = {}  # the shortest with latencies
        self.searches: dict[str, Search] = {}  # for the capacity of a server, by its name
        self.capacity_s = 0.0  # spent in capacity blocks so far
        self.block = 0
        self.prepared = False

    def measure(self) -> None:
        """All epochs; everything is saved after every block."""
        self.announce("client", 0.0)
        self.measure_client()
        self.began = time.monotonic()
        for epoch in range(self.plan.epochs):
            loads = self.unsettled()
            if not loads:
                break
            self.measure_epoch(epoch, loads)

    def elapsed_share(self) -> float:
        """Share of the time that has passed."""
        seconds = self.plan.seconds + self.plan.capacity_seconds
        return min(1.0, (time.monotonic() - self.began) / seconds)

    def measure_client(self) -> None:
        """What this client can measure at most: the same requests to the echo server.

        What its answers say is not looked at: of a language model, that took half a minute.
        """
        unread = {"check": None, "outputs_told": None}
        if self.plan.job.carries_output:
            unread["carries_output"] = bool
        with echo_server(self.plan.sample_answer) as url:
            for offered in self.plan.loads:
                job = replace(
                    self.plan.job,
                    url=url,
                    concurrency=offered.concurrency or OPEN_LOOP_CEILING_AT,
                    duration_s=CLIENT_CEILING_S,
                    **unread,
                )
                load = self.run_load(job)
                if load.window_s > 0:
                    self.measured.client_ceilings[offered] = len(load.ended) / load.window_s

    def measure_epoch(self, epoch: int, loads: list[OfferedLoad]) -> None:
        """Measure all servers until this epoch's time is up: together, if memory holds them all,
        else as many at a time as it holds, the baseline beside each lot.
        """
        baseline = self.plan.servers[0]
        waiting = self.random.sample(self.plan.servers, len(self.plan.servers))
        if self.plan.epochs == 1:  # the A/A control last: it is the baseline's own server then
            waiting.sort(key=lambda spec: spec.name != spec.variant)
        while waiting:
            left = self.measure_together(epoch, loads, waiting)
            waiting = [baseline, *(spec for spec in left if spec != baseline)] if left else []
        self.measured.seconds = time.monotonic() - self.began
        self.save()

    def measure_together(
        self, epoch: int, loads: list[OfferedLoad], waiting: list[ServerSpec]
    ) -> list[ServerSpec]:
        """Launch as many servers as memory holds, measure and end them; returns the others."""
        until_s = self.plan.seconds * (epoch + 1) / self.plan.epochs
        deadline = self.began + self.capacity_s + until_s
        running: dict[ServerSpec, Running] = {}
        no_ops: dict[Shape, Running] = {}
        try:
            left = self.launch(epoch, loads, waiting, running)
            if epoch < CEILING_EPOCHS:
                self.launch_no_ops(running, no_ops)
            if not self.prepared:
                self.prepare()
            now, share = time.monotonic(), len(running) / max(1, len(running) + len(left))
            self.measure_blocks(epoch, loads, running, no_ops, now + share * (deadline - now))
            self.note_memory(running)
            self.measure_capacity(epoch, running)
        finally:
            for each in [*running.values(), *no_ops.values()]:
                each.exit.close()
        return left

    def launch(
        self,
        epoch: int,
        loads: list[OfferedLoad],
        waiting: list[ServerSpec],
        running: dict[ServerSpec, Running],
    ) -> list[ServerSpec]:
        """Launch and warm servers into `running`; returns those that memory has no room for.

        The first time a server is launched alone: that tells what it takes, in seconds and bytes.
        Later the next one starts while one gets ready, as a launch keeps little more than one core
        busy. None is warmed meanwhile: every step of a language model would wait for that core.
        """
        launches = Launches(running)
        starting = launches.starting
        try:
            for spec in waiting:
                is_known = spec.name in self.room.taken
                while starting and not is_known:
                    self.wait(epoch, loads, launches)
                if self.shared(spec, loads, running):
                    continue
                crowded = any(other != self.plan.servers[0] for other in [*running, *starting])
                if crowded and not self.has_room(spec, launches):
                    launches.left.append(spec)
                    continue
                self.announce(f"epoch {epoch + 1}: launching {spec.name}", self.elapsed_share())
                starting[spec] = self.started(spec, crowded, alone=not is_known)
                if not is_known or len(starting) == STARTING:
                    self.wait(epoch, loads, launches)
            while starting:
                self.wait(epoch, loads, launches)
        finally:
            for each in starting.values():
                each.exit.close()
        return launches.left

    def has_room(self, spec: ServerSpec, launches: Launches) -> bool:
        """Whether memory has room for one more server. It is kept for the baseline, which every
        other one is compared with and which is launched in any case.
        """
        baseline = self.plan.servers[0]
        is_there = baseline in launches.running or baseline in launches.starting
        kept = [] if is_there else [baseline.name]
        coming = [other.name for other in launches.starting]
        return spec == baseline or self.room.has_room(spec.name, *kept, *coming)

    def shared(
        self, spec: ServerSpec, loads: list[OfferedLoad], running: dict[ServerSpec, Running]
    ) -> bool:
        """Whether this is the same server as one that is up, which is to have both names.

        That is the A/A control of a single epoch, whose intervals do not contain what launches
        differ by: a second launch would differ by more than they say.
        """
        other = next((each for each in running if each._replace(name=spec.name) == spec), None)
        if other is None or self.plan.epochs > 1:
            return False
        running[spec] = running[other]
        record = self.measured.records.setdefault(spec.name, Record(spec.variant))
        record.server = self.measured.records[other.name].server
        self.rates |= {(spec.name, load): self.rates[other.name, load] for load in loads}
        return True

    def started(self, spec: ServerSpec, crowded: bool, alone: bool) -> Starting:
        """A server that is launched now and will be ready some time."""
        free, exit_ = self.room.free() if alone else None, ExitStack()
        launch = None
        if not self.plan.attached:
            launch = exit_.enter_context(launched(spec.module, *spec.flags, root=spec.root))
        return Starting(launch, exit_, crowded, free)

    def wait(self, epoch: int, loads: list[OfferedLoad], launches: Launches) -> None:
        """Wait until the server that was started first is up, and freeze it; if no other one is
        starting, warm all that are cold.
        """
        spec, started = next(iter(launches.starting.items()))
        with started.exit, self.retried(spec, started, launches.left):
            del launches.starting[spec]
            launches.running[spec] = self.ready(spec, started)
            with self.ended_if_failing(spec, launches.running):
                launches.running[spec].freeze()
            launches.cold[spec] = started
        if not launches.starting:
            self.warm_all(epoch, loads, launches)

    def warm_all(self, epoch: int, loads: list[OfferedLoad], launches: Launches) -> None:
        """Warm the servers that are up and cold, one after the other."""
        running = launches.running
        for spec, started in launches.cold.items():
            with self.retried(spec, started, launches.left), self.ended_if_failing(spec, running):
                self.warm(epoch, spec, running[spec], loads)
                if started.free:
                    self.room.note(spec.name, started.free)
        launches.cold.clear()

    @contextlib.contextmanager
    def retried(
        self, spec: ServerSpec, started: Starting, left: list[ServerSpec]
    ) -> Iterator[None]:
        """Leave a server for later that fails for want of memory beside others; keep the reason of
        every other failure.
        """
        with self.failures_of(spec):
            try:
                yield
            except ServerFailedError as error:
                if not (started.crowded and lacked_memory(str(error))):
                    raise
                left.append(spec)

    def prepare(self) -> None:
        """What the suite measures without a server; servers are measured even if that fails."""
        self.announce("what needs no server", self.elapsed_share())
        self.prepared = True
        try:
            self.plan.prepare()
        except RuntimeError as error:  # out of memory mostly; measure_in_process names the variant
            self.report_failure("what needs no server", str(error))

    def ready(self, spec: ServerSpec, started: Starting) -> Running:
        """A server, up; what it says of itself is kept."""
        record = self.measured.records.setdefault(spec.name, Record(spec.variant))
        server = self.plan.attached or started.launch.ready()
        if started.launch and started.free:
            record.startups_s.append(server.startup_s)
        record.server, stats = server.info, server.stats()
        if stats:
            refuse_other_stats(stats)
            record.setup_metrics.append(stats["workers"][0]["setup_metrics"])
        tree = ProcessTree(server.pid, stats) if server.pid else None
        is_ours = self.plan.attached is None
        return Running(server, started.exit.pop_all(), tree, launched=is_ours)

    def warm(
        self, epoch: int, spec: ServerSpec, running: Running, loads: list[OfferedLoad]
    ) -> None:
        """Thaw a new server, load it once at every load, note how fast it is, and freeze it again.
        Where an earlier launch has told that, the highest load is enough.

        Where nothing comes back, how its requests ended is kept: it gets no window.
        """
        running.thaw()
        is_known = all((spec.name, offered) in self.rates for offered in loads)
        for offered in loads[-1:] if is_known else loads:
            job = replace(self.job(running.server, offered), duration_s=WARM_S)
            if job.carries_output:  # one answer tells the rate: no queue has to fill up for it
                job = replace(job, warmup_answers=0, min_requests=1)
            load = self.run_load(job)
            if not any_correct(load):
                window = Window(load, Usage(), epoch=epoch, block=self.block)
                self.measured.records[spec.name].add(offered, window)
                raise ServerFailedError(
                    f"no correct answer at {offered.name}{running.server.tail()}"
                )
            self.rates[spec.name, offered] = load.requests_per_second
        running.freeze()

    def launch_no_ops(
        self, running: dict[ServerSpec, Running], no_ops: dict[Shape, Running]
    ) -> None:
        """A no-op server for each way in which a server of this epoch is set up, frozen; one after
        the other, as long as memory has room for them beside the servers.
        """
        shapes = {shape_of(each.server.info) for each in running.values() if each.launched}
        room = Room(self.room.free, self.room.reserve)  # what servers took says nothing of these
        for shape in sorted(shape for shape in shapes if shape):
            name, free = " ".join(shape.flags), room.free()
            if not room.has_room(name):
                self.report_failure(NO_OP, f"memory has no room for one with {name}")
                continue
            try:  # without one, its ceiling is left out
                with ExitStack() as exit_:
                    flags = *self.plan.no_op_flags, *shape.flags
                    server = exit_.enter_context(launched(MODULE, *flags)).ready()
                    tree = ProcessTree(server.pid, server.stats())
                    no_ops[shape] = Running(server, exit_.pop_all(), tree, launched=True)
                no_ops[shape].freeze()
                room.note(name, free)
            except ServerFailedError as error:
                self.report_failure(NO_OP, str(error))

    def measure_blocks(
        self,
        epoch: int,
        loads: list[OfferedLoad],
        running: dict[ServerSpec, Running],
        no_ops: dict[Shape, Running],
        deadline: float,
    ) -> None:
        """A block of every load, or LEAST_BLOCKS; then those that end before the deadline: where
        answers come one at a time, a high load takes many times as long as a low one.

        Where they stream in turn, most of it goes until the queue is full: one of the least blocks
        that would not end in time with latencies goes without those that LATENCY_BLOCKS have told.
        """
        orders = {load: balanced_orders(list(running), self.random) for load in loads}
        least = LEAST_BLOCKS if self.plan.epochs <= FEW_EPOCHS else 1
        before = -1
        for cycle in itertools.count():
            if not running or self.block == before:
                break
            before = self.block
            for offered in self.random.sample(loads, len(loads)):
                began = time.monotonic()
                in_time = began + self.block_s.get(offered, 0.0) <= deadline
                if cycle >= least and not in_time:
                    continue
                self.measure_block(epoch, running, offered, next(orders[offered]), in_time)
                if in_time:
                    took_s = time.monotonic() - began
                    self.block_s[offered] = min(took_s, self.block_s.get(offered, took_s))
                if offered == self.plan.loads[-1] and cycle % CEILINGS_EVERY == 0:
                    self.measure_ceilings(epoch, running, no_ops, offered)
                self.block += 1
                self.measured.seconds = time.monotonic() - self.began
                self.save()

    def measure_block(
        self,
        epoch: int,
        running: dict[ServerSpec, Running],
        offered: OfferedLoad,
        order: list[ServerSpec],
        in_time: bool,
    ) -> None:
        """A window of every server; with latencies if there is time for them, or they are few."""
        share = self.elapsed_share()
        self.announce(f"epoch {epoch + 1}, block {self.block + 1}: {offered.name}", share)
        for spec in order:
            if spec in running:
                self.measure_server(epoch, spec, offered, running, in_time)

    def measure_server(
        self,
        epoch: int,
        spec: ServerSpec,
        offered: OfferedLoad,
        running: dict[ServerSpec, Running],
        in_time: bool,
    ) -> None:
        """One window; a server that fails is ended, and the others go on."""
        with self.failures_of(spec), self.ended_if_failing(spec, running):
            job = replace(
                self.job(running[spec].server, offered),
                duration_s=self.window_s(spec, offered),
                wants_latencies=in_time or self.lacks_latencies(spec, offered),
            )
            window = self.undisturbed(lambda: self.window(running[spec], job, epoch), spec.name)
            if window is None:
                return
            ceiling = self.measured.client_ceilings.get(offered)
            self.measured.records[spec.name].add(offered, replace(window, client_ceiling=ceiling))
            if not any_correct(window.load):
                reason = f"no correct answer at {offered.name}{running[spec].server.tail()}"
                raise ServerFailedError(reason)

    def lacks_latencies(self, spec: ServerSpec, offered: OfferedLoad) -> bool:
        """Whether this block's latencies of the variant are needed for an interval."""
        blocks = {
            window.block
            for record in self.measured.records.values()
            if record.variant == spec.variant
            for window in record.at(offered.name)
            if window.load.correct_latency_s
        }
        return self.block not in blocks and len(blocks) < LATENCY_BLOCKS

    def undisturbed(self, measured: Callable[[], T], name: str) -> T | None:
        """What is measured while the machine is neither suspended nor its clock set: a window that
        was disturbed is dropped and, if time allows, measured again, once.
        """
        for _ in range(2):
            before = read_clocks()
            result = measured()
            reason = disturbance(before, read_clocks())
            if reason is None:
                return result
            self.measured.dropped.append(f"{name}: {reason}")
            self.report_failure("a window", f"{name} was measured while {reason}: dropped")
            if self.elapsed_share() >= 1:
                break
        return None

    def window_s(self, spec: ServerSpec, offered: OfferedLoad) -> float:
        """How long a window has to be for several requests per connection, within bounds."""
        least_s, rate = self.plan.job.duration_s, self.rates.get((spec.name, offered))
        if offered.rate:
            requests, rate = WINDOW_ARRIVALS, offered.rate
        elif self.plan.job.carries_output:
            requests = WINDOW_STREAMS
        else:
            requests = WINDOW_REQUESTS * offered.concurrency
        if not rate:
            return least_s
        wanted_s = requests / rate
        return min(max(least_s, wanted_s), LONGEST_WINDOW * least_s)

    @contextlib.contextmanager
    def ended_if_failing(
        self, spec: ServerSpec, running: dict[ServerSpec, Running]
    ) -> Iterator[None]:
        """End a server that fails, and take no further part of it in this epoch."""
        try:
            yield
        except ServerFailedError:
            ended = running[spec]
            ended.exit.close()
            for name in [name for name, each in running.items() if each is ended]:
                del running[name]
            raise

    @contextlib.contextmanager
    def failures_of(self, spec: ServerSpec) -> Iterator[None]:
        """Keep the reason why a server could not be measured to the end, and go on."""
        try:
            yield
        except ServerFailedError as error:
            record = self.measured.records.setdefault(spec.name, Record(spec.variant))
            record.error = record.error or str(error)
            self.report_failure(spec.name, str(error))

    def measure_ceilings(
        self,
        epoch: int,
        running: dict[ServerSpec, Running],
        no_ops: dict[Shape, Running],
        offered: OfferedLoad,
    ) -> None:
        """What stands above the servers: the no-op servers, and the same work without a server."""
        if epoch < CEILING_EPOCHS:
            self.measure_no_ops(epoch, no_ops, offered)
            self.measure_in_process(epoch, running)

    def measure_no_ops(
        self, epoch: int, no_ops: dict[Shape, Running], offered: OfferedLoad
    ) -> None:
        """One lone request after the other, and the most at once, to every no-op server."""
        for shape, running in no_ops.items():
            record = self.measured.no_ops.setdefault(shape, Record(NO_OP))
            for load in dict.fromkeys([LONE, OfferedLoad(offered.concurrency or 1)]):
                job = self.job(running.server, load)
                job = no_op_job(job, running.server.url, self.plan.no_op_bodies)
                try:
                    window = self.window(running, job, epoch)
                except ServerFailedError as error:
                    self.report_failure(NO_OP, str(error))
                    continue
                if window.load.correct_in_window:  # else it tells no ceiling
                    record.add(load, window)

    def measure_in_process(self, epoch: int, running: dict[ServerSpec, Running]) -> None:
        """The same work without a server, of every variant that is up and runs this code."""
        own = [spec for spec in running if running[spec].launched and spec.root is None]
        for variant in dict.fromkeys(spec.variant for spec in own):
            spec = next(spec for spec in running if spec.variant == variant)
            record = self.measured.records[spec.name]
            try:
                rate = self.plan.in_process(variant)
            except RuntimeError as error:  # out of memory mostly
                record.error = record.error or f"without a server: {error}"
                self.report_failure(f"{variant} without a server", str(error))
                continue
            if rate is not None:
                record.in_process.append((epoch, self.block, rate))

    def note_memory(self, running: dict[ServerSpec, Running]) -> None:
        """What every server's processes hold, now that all loads were served."""
        gpu = self.meter.gpu
        for spec, each in running.items():
            if each.tree:
                memory = each.tree.memory(gpu.process_bytes() if gpu else None)
                self.measured.records[spec.name].note_memory(memory)

    def measure_capacity(self, epoch: int, running: dict[ServerSpec, Running]) -> None:
        """Capacity blocks until these servers' share of the time is up, or all searches settled.

        A block that would not end in time is not begun: where windows have to be that long, the
        capacity is not known in the time there was.
        """
        if not self.plan.slo_p99_ms or not running:
            return
        began, order = time.monotonic(), balanced_orders(list(running), self.random)
        share = len(running) / len(self.plan.servers)
        deadline = began + share * self.plan.capacity_seconds / self.plan.epochs
        for spec in running:
            self.search(spec).begin_epoch()
        while any(not self.search(spec).settled for spec in running):
            jobs = [self.capacity_job(spec, running) for spec in running]
            block_s = sum(job.warmup_s + job.duration_s for job in jobs)
            if time.monotonic() + block_s > deadline:
                break
            self.measure_capacity_block(epoch, running, next(order))
        self.capacity_s += time.monotonic() - began

    def search(self, spec: ServerSpec) -> Search:
        """The search for this server's capacity, which begins below what it answered so far."""
        if spec.name not in self.searches:
            load = self.plan.loads[-1]
            answered = [
                each.load.requests_per_second
                for each in self.measured.records[spec.name].at(load.name)
            ]
            # where no answer was complete in any window, one rate is as good as another
            self.searches[spec.name] = Search(FIRST_GUESS * (mean(answered) or 1.0))
        return self.searches[spec.name]

    def capacity_job(self, spec: ServerSpec, running: dict[ServerSpec, Running]) -> Job:
        """The next window of this server."""
        plan, job = self.plan, self.job(running[spec].server, LONE)
        most_s = plan.capacity_seconds / plan.epochs / len(plan.servers) / WINDOWS
        return offered_job(job, self.search(spec).next_rate, plan.slo_p99_ms, most_s)

    def measure_capacity_block(
        self, epoch: int, running: dict[ServerSpec, Running], order: list[ServerSpec]
    ) -> None:
        """A window of every server, each at its own next rate."""
        step = f"epoch {epoch + 1}, block {self.block + 1}: capacity"
        self.announce(step, self.elapsed_share())
        for spec in order:
            if spec in running:
                with self.failures_of(spec), self.ended_if_failing(spec, running):
                    self.measure_offered_rate(epoch, spec, running)
        self.block += 1
        self.measured.seconds = time.monotonic() - self.began
        self.save()

    def measure_offered_rate(
        self, epoch: int, spec: ServerSpec, running: dict[ServerSpec, Running]
    ) -> None:
        """One window; ServerFailedError if no lone request comes through after it."""
        server, job = running[spec].server, self.capacity_job(spec, running)

        def loaded() -> tuple[LoadResult, LoadResult]:
            try:
                running[spec].thaw()
                load = self.run_load(job)
                lone = self.run_load(lone_job(self.job(server, LONE), job))
                if lone.correct_in_window:
                    server.stats()  # checks that it is still the one that was launched
                return load, lone
            finally:
                running[spec].freeze()

        loads = self.undisturbed(loaded, spec.name)
        if loads is None:
            return
        load, lone = loads
        if not lone.correct_in_window:
            offered = f"{job.rate:.4g} requests/s were offered"
            raise ServerFailedError(f"no correct answer after {offered}{server.tail()}")
        window = CapacityWindow(
            server=spec.name,
            variant=spec.variant,
            epoch=epoch,
            block=self.block,
            slo_p99_ms=self.plan.slo_p99_ms,
            offered_rate=job.rate,
            seconds=job.duration_s,
            requests=request_counts(load),
            late=late_answers(load, self.plan.slo_p99_ms),
            latency_ms=latency_ms(load.correct_latency_s),
        )
        self.measured.capacity_windows.append(window)
        self.search(spec).add(Trial(job.rate, window.late, window.requests["sent"]))

    def job(self, server: Server, offered: OfferedLoad) -> Job:
        """The requests to this server, under this load, in an order of their own."""
        return replace(
            self.plan.job,
            url=server.url + self.plan.path,
            concurrency=offered.concurrency or 1,
            rate=offered.rate,
            seed=self.plan.seed + self.block,
        )

    def window(self, running: Running, job: Job, epoch: int) -> Window:
        """One window: thaw, load, freeze; the server's identity is checked before and after."""
        server, tree = running.server, running.tree
        marks: dict[Moment, tuple[dict | None, Reading, int]] = {}
        failures: list[ServerFailedError] = []

        def mark(moment: Moment) -> None:
            if moment is Moment.OPENED:  # what there is, is of an attempt whose load process died
                marks.clear()
                failures.clear()
                gpu.clear()
            try:
                marks[moment] = server.stats(), self.meter.read(tree), len(gpu)
            except ServerFailedError as error:  # how its requests ended is worth knowing still
                failures.append(error)

        with self.meter.gpu_samples() as gpu:
            try:
                running.thaw()
                load = self.run_load(job, mark)
            finally:
                running.freeze()
        if failures and any_correct(load):
            raise failures[0]
        if failures:
            return Window(load, Usage(), epoch=epoch, block=self.block)
        at_first, first, _ = marks[Moment.OPENED]
        at_last, last, sampled = marks[Moment.CLOSED]
        never_full = load.full_since == math.inf
        when_full = at_last if never_full else marks.get(Moment.FULL, marks[Moment.OPENED])[0]
        filling, _ = work_between(at_first, when_full)
        workers, http = work_between(when_full, at_last)
        return Window(
            load,
            usage_between(first, last, gpu[:sampled]),
            workers,
            http,
            served_filling=sum(worker.requests for worker in filling),
            epoch=epoch,
            block=self.block,
        )
