"""The one way a server script starts LitServe: flags, limits, instrumentation, a clean end."""

import argparse
import contextlib
import importlib
import inspect
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import litserve
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from harness.process.control import API_KEY
from harness.process.cores import usable_cores
from harness.process.limits import raise_open_files, short_temporary_folder
from harness.serving.admission import AdmissionControl, QueueClock, ResponseBuffer
from harness.serving.bounds import MAX_CONCURRENCY, MAX_WAIT_S, Bounds
from harness.serving.connections import Connections
from harness.serving.counters import Counters, totals_of
from harness.serving.instrumentation import instrumented
from harness.serving.served_api import loop_name, served
from harness.serving.watch import Watch

LOOPBACK = "127.0.0.1"
QUEUE_TIMEOUT_S = 60  # a request that waited longer is answered 504 when its turn comes
UNREADABLE = "There was an error parsing the body"  # FastAPI, of all that is no JSONDecodeError
RESPONSE_TIMEOUT_S = QUEUE_TIMEOUT_S + 240  # and one that nobody answers, then


def serve(
    api: litserve.LitAPI,
    *,
    workers_per_device: int = 1,
    preloaded: Sequence[str] = (),
    max_concurrency: int = MAX_CONCURRENCY,
    max_wait_s: float = MAX_WAIT_S,
) -> None:
    """Serve `api` with LitServe until SIGINT or SIGTERM.

    Args:
        api: the LitAPI, as a script of its own would hand it to LitServer; what more it may tell is
            in harness.serving.served_api.
        workers_per_device: worker processes.
        preloaded: modules that are imported once, by a process that then forks the workers; none
            to start each as a new interpreter, as LitServe does.
        max_concurrency: requests that may be inside one HTTP process before it answers 503.
        max_wait_s: fewer may, if so many would wait for longer (harness.serving.bounds).
    """
    options = argument_parser(api).parse_args()
    prepare_to_serve(options)
    try:
        options.accelerator = accelerator(options.accelerator)
    except ValueError as error:
        sys.exit(str(error))
    # On the CPU every worker would start a thread per core; torch reads this in a worker's import.
    threads = served(api).threads_per_worker or max(1, usable_cores() // workers_per_device)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # By default its idle threads spin for several ms, while LitServe's processes wait for a core.
    os.environ.setdefault("GOMP_SPINCOUNT", "50000")  # some 1 ms: steps have no gap that long
    server = litserver(api, options, workers_per_device, max_concurrency, max_wait_s)
    watch = Watch(server, options.api_servers, options.response_timeout)
    settings = {"log_level": "warning", "access_log": False}
    settings["http"] = Connections(served(api).refusal)
    with forked_workers(preloaded):
        run_to_its_end(litserve.LitServer.run, server, watch, options, **settings)


def prepare_to_serve(options: argparse.Namespace) -> None:
    """Exit with one sentence if the port is taken, or open to everybody; end cleanly on signals,
    within the limits of the shell.
    """
    refuse_open_door(options.host, options.insecure)
    refuse_taken_port(options.host, options.port)
    stop_on_signals()
    bear_the_shells_limits()


def run_to_its_end(
    run: Callable[..., None],
    server: litserve.LitServer,
    watch: Watch,
    options: argparse.Namespace,
    **settings: Any,
) -> None:
    """Call `run`, LitServer's, at the options' address, until SIGINT or SIGTERM, or until a process
    is lost; none is left. `settings` are what else it is called with.
    """
    settings |= {
        "host": options.host,
        "port": options.port,
        "num_api_servers": options.api_servers,
        "generate_client_file": False,
    }
    watch.start()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            run(server, **settings)
    except (EOFError, ConnectionError):  # what waiting on LitServe's queue manager ends with
        watch.last_word()
        raise
    except RuntimeError as error:
        if str(error).startswith("One or more workers failed to start"):  # and have said why
            sys.exit("the server did not start: no worker could be set up")
        raise
    finally:
        watch.over.set()
        for child in multiprocessing.active_children():  # left when stopped before it was up
            child.kill()


@contextlib.contextmanager
def forked_workers(preloaded: Sequence[str]) -> Iterator[None]:
    """Let LitServe's workers be forks of a process that has imported these modules.

    What those modules hold is then in memory once. They may start no thread and call no OpenMP
    function when imported: a fork has none of the threads that it believes to have, and hangs.
    """
    if not preloaded:
        yield
        return
    original = multiprocessing.get_context
    multiprocessing.set_forkserver_preload([*preloaded, "harness.serving.frozen"])

    def get_context(method: str | None = None) -> multiprocessing.context.BaseContext:
        return original("forkserver" if method == "spawn" else method)

    with patch.object(multiprocessing, "get_context", get_context):  # LitServe asks for "spawn"
        yield


def bear_the_shells_limits() -> None:
    """Open as many files as it allows, a connection each; make sockets where their paths are short
    enough. Exits with one sentence if there is no such folder.
    """
    raise_open_files()
    try:
        os.environ["TMPDIR"] = tempfile.tempdir = short_temporary_folder()  # LitServe's manager's
    except OSError as error:
        sys.exit(str(error))


def variant_of(api: litserve.LitAPI) -> str:
    """The variant's name: its script is server_<name>.py."""
    return Path(inspect.getfile(type(api))).stem.removeprefix("server_")


def api_class(script: str) -> type[litserve.LitAPI]:
    """The LitAPI that a server script, given as a module name, defines."""
    module = importlib.import_module(script)
    classes = (value for value in vars(module).values() if inspect.isclass(value))
    apis = (kind for kind in classes if issubclass(kind, litserve.LitAPI))
    return next(kind for kind in apis if kind.__module__ == module.__name__)


def argument_parser(api: litserve.LitAPI) -> argparse.ArgumentParser:
    """The flags that all server scripts share, and the script's own."""
    doc = sys.modules[type(api).__module__].__doc__ or ""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    add_shared_flags(parser)
    add = parser.add_argument
    add(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages from this origin call the server, e.g. http://localhost:3000, or '*' "
        "(default: none; may be given several times)",
    )
    add(
        "--restart-workers",
        action="store_true",
        help="start a worker that has died again (default: the server ends)",
    )
    add(
        "--response-timeout",
        type=float,
        default=RESPONSE_TIMEOUT_S,
        metavar="SECONDS",
        help="without an answer, or a stream's next piece, until a 504 (default: %(default)s)",
    )
    served(api).add_flags(parser)
    return parser


def add_shared_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every server that this harness launches."""
    add = parser.add_argument
    add(
        "--host",
        default=LOOPBACK,
        choices=(LOOPBACK, "0.0.0.0", "::"),
        help="address to listen on (default: %(default)s, this machine only)",
    )
    add("--port", type=int, default=8000, help="1024 to 65535 (default: %(default)s)")
    add(
        "--accelerator",
        default="auto",
        choices=("auto", "cpu", "cuda", "mps"),
        help="where the model runs (default: %(default)s, the best there is)",
    )
    add(
        "--api-servers",
        type=int,
        default=1,
        help="HTTP processes (default: %(default)s; LitServe would start one per worker)",
    )
    add("--insecure", action="store_true", help=f"let other machines in without a {API_KEY}")
    add(
        "--run-id",
        default=uuid.uuid4().hex,
        help="repeated by /info, so that a client knows whom it measures",
    )


def refuse_open_door(host: str, insecure: bool) -> None:
    """Exit with one sentence if other machines could use the server without a key."""
    if host != LOOPBACK and not os.environ.get(API_KEY) and not insecure:
        reason = f"set {API_KEY}, or say --insecure"
        sys.exit(f"--host {host} lets every machine that reaches this one use the server: {reason}")


def refuse_taken_port(host: str, port: int) -> None:
    """Exit with one sentence if the port cannot be bound, before any model is loaded."""
    if not 1024 <= port <= 65535:
        sys.exit(f"--port must be 1024 to 65535, not {port}")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            sys.exit(f"cannot listen on {host}:{port}: {error}; choose another port with --port")


def stop_on_signals() -> None:
    """Make SIGTERM and the first SIGINT both mean a clean stop; more of them do not disturb it."""
    main_process = os.getpid()

    def stop(number: int, _: Any) -> None:
        if os.getpid() != main_process:  # inherited by a forked child without a handler of its own
            os._exit(128 + number)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def litserver(
    api: litserve.LitAPI,
    options: argparse.Namespace,
    workers: int,
    max_concurrency: int,
    max_wait_s: float,
) -> litserve.LitServer:
    """The LitServer around `api`: with /info, /stats, limits on bodies and concurrency, and errors
    of one sentence.
    """
    told = served(api).configure(options)
    metadata = {
        "variant": variant_of(api),
        "run_id": options.run_id,
        "accelerator": options.accelerator,
        "workers_per_device": workers,
        "omp_num_threads": os.environ["OMP_NUM_THREADS"],
        "api_servers": options.api_servers,
        "max_batch_size": api.max_batch_size,
        "batch_timeout_s": api.batch_timeout,
        "loop": loop_name(api),
    }
    metadata |= told
    wrapped, counters = instrumented(api, workers, options.api_servers)
    refusal = served(api).refusal
    bounds = Bounds(counters, max_concurrency, max_wait_s)
    admission = {"counters": counters, "refusal": refusal, "bounds": bounds}
    server = litserve.LitServer(
        wrapped,
        accelerator=options.accelerator,
        devices=1,
        workers_per_device=workers,
        timeout=QUEUE_TIMEOUT_S,
        model_metadata=metadata,
        middlewares=[(AdmissionControl, admission), *cross_origin(options.cors)],
        callbacks=[QueueClock()],
        restart_workers=options.restart_workers,
    )
    server.response_buffer = ResponseBuffer()
    observe(server, options.run_id, [counters])
    guard_documentation(server)
    explain_refusals(server.app, refusal)
    return server


def observe(server: litserve.LitServer, run_id: str, counters: Sequence[Counters]) -> None:
    """Let a server tell /stats, the totals of all its APIs, to whoever has its key, and end in time
    when it is stopped.
    """
    server.uvicorn_graceful_timeout = 3
    own_way = hasattr(server.lit_api, "authorize")  # of a script that is not ours: unknown here
    server.app.add_api_route(
        "/stats",
        lambda: {"run_id": run_id} | totals_of(counters),
        dependencies=[] if own_way else [Depends(server.setup_auth())],
    )


def guard_documentation(server: litserve.LitServer) -> None:
    """Let /docs, /redoc and /openapi.json want the key that LitServe's own endpoints want."""
    app, key = server.app, [Depends(server.setup_auth())]
    open_routes = [each for each in app.routes if type(each) is Route]
    for route in open_routes:
        app.router.routes.remove(route)
        app.add_api_route(route.path, route.endpoint, dependencies=key, include_in_schema=False)


def cross_origin(origins: list[str]) -> list[tuple[type, dict[str, Any]]]:
    """The middleware that lets browsers' pages from these origins call the server; none for none.

    It stands before the others, so that a page may read refusals too.
    """
    if not origins:
        return []
    allowed = {"allow_origins": origins, "allow_methods": ["GET", "POST"], "allow_headers": ["*"]}
    return [(CORSMiddleware, allowed | {"expose_headers": ["Retry-After"]})]


def accelerator(asked: str) -> str:
    """`asked`, or for "auto" the best there is; LitServe's own depends on what is imported.

    Raises ValueError if torch, where it is loaded, finds no such device.
    """
    if asked == "cpu" or (asked != "auto" and "torch" not in sys.modules):
        return asked
    import torch  # takes seconds, but server scripts have it loaded already

    devices = {"cuda": torch.cuda, "mps": torch.backends.mps}
    there = [*(name for name, device in devices.items() if device.is_available()), "cpu"]
    if asked not in ("auto", *there):
        raise ValueError(f"--accelerator {asked}: torch {torch.__version__} finds no such device")
    return there[0] if asked == "auto" else asked


def explain_refusals(app: FastAPI, refusal: Callable[..., JSONResponse]) -> None:
    """Answer what FastAPI cannot parse with one sentence, not a list of validation records."""

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        return refusal(422, sentence(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def pass_on(_: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__context__, RecursionError):  # it cannot be pickled for the worker
            return refusal(400, "the body is nested too deeply")
        if isinstance(error.__cause__, ValueError) and error.detail == UNREADABLE:
            return refusal(400, unreadable(error.__cause__))
        return refusal(error.status_code, error.detail, error.headers)


def unreadable(error: ValueError) -> str:
    """Why Python's parser cannot read a body that may well be JSON."""
    not_text = isinstance(error, UnicodeDecodeError)
    reason = "it is not UTF-8" if not_text else "a number in it is too long"
    return f"the body must be a JSON object, but {reason}"


def sentence(error: dict[str, Any]) -> str:
    """What is wrong with a request, from the first of FastAPI's validation records."""
    if error["type"] == "json_invalid":
        reason = f"it is not valid JSON ({error['ctx']['error']})"
    elif len(error["loc"]) > 1:
        return f"{'.'.join(str(part) for part in error['loc'][1:])}: {error['msg']}"
    elif error["type"] == "missing":
        reason = "the body is empty"
    else:
        reason = "it is something else; is the Content-Type application/json?"
    return f"the body must be a JSON object, but {reason}"
