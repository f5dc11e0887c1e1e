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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import litserve
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from harness.process.cores import usable_cores
from harness.process.limits import raise_open_files, short_temporary_folder
from harness.serving.admission import AdmissionControl, QueueClock
from harness.serving.instrumentation import instrumented
from harness.serving.served_api import served

MAX_BODY_BYTES = 32 << 20
MAX_CONCURRENCY = 1024  # inside the server; more are answered 503: LitServe's queues have no end
QUEUE_TIMEOUT_S = 60  # a request that waited longer is answered 504 when its turn comes


def serve(
    api: litserve.LitAPI, *, workers_per_device: int = 1, max_concurrency: int = MAX_CONCURRENCY
) -> None:
    """Serve `api` with LitServe until SIGINT or SIGTERM.

    Args:
        api: the LitAPI, as a script of its own would hand it to LitServer; what more it may tell is
            in harness.serving.served_api.
        workers_per_device: worker processes; CPU threads are shared out among them.
        max_concurrency: requests that may be inside one HTTP process before it answers 503.
    """
    options = argument_parser(api).parse_args()
    refuse_taken_port(options.host, options.port)
    stop_on_signals()
    bear_the_shells_limits()
    # On the CPU every worker would start a thread per core; torch reads this in a worker's import.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // workers_per_device)))
    server = litserver(api, options, workers_per_device, max_concurrency)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run(
                host=options.host,
                port=options.port,
                num_api_servers=options.api_servers,
                log_level="warning",
                generate_client_file=False,
                access_log=False,
            )
    except (EOFError, ConnectionError):  # what waiting on LitServe's queue manager ends with
        sys.exit("LitServe has shut itself down: one of its processes died")
    finally:
        for child in multiprocessing.active_children():  # left when stopped before it was up
            child.kill()


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
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        choices=("127.0.0.1", "0.0.0.0", "::"),
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
    add(
        "--run-id",
        default=uuid.uuid4().hex,
        help="repeated by /info, so that a client knows whom it measures",
    )
    served(api).add_flags(parser)
    return parser


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
    api: litserve.LitAPI, options: argparse.Namespace, workers: int, max_concurrency: int
) -> litserve.LitServer:
    """The LitServer around `api`: with /info, /stats, limits on bodies and concurrency, and errors
    of one sentence.
    """
    metadata = {
        "variant": variant_of(api),
        "run_id": options.run_id,
        "accelerator": accelerator(options.accelerator),
        "workers_per_device": workers,
        "api_servers": options.api_servers,
        "max_batch_size": api.max_batch_size,
        "batch_timeout_s": api.batch_timeout,
    }
    metadata |= served(api).configure(options)
    wrapped, counters = instrumented(api, workers, options.api_servers)
    refusal = served(api).refusal
    admission = {"limit": max_concurrency, "counters": counters, "refusal": refusal}
    server = litserve.LitServer(
        wrapped,
        accelerator=metadata["accelerator"],
        devices=1,
        workers_per_device=workers,
        timeout=QUEUE_TIMEOUT_S,
        model_metadata=metadata,
        max_payload_size=MAX_BODY_BYTES,
        middlewares=[(AdmissionControl, admission)],
        callbacks=[QueueClock()],
    )
    server.uvicorn_graceful_timeout = 3
    server.app.add_api_route("/stats", lambda: {"run_id": options.run_id} | counters.snapshot())
    explain_refusals(server.app, refusal)
    return server


def accelerator(asked: str) -> str:
    """`asked`, or for "auto" the best there is; LitServe's own depends on what is imported."""
    if asked != "auto":
        return asked
    import torch  # takes seconds, but server scripts have it loaded already

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def explain_refusals(app: FastAPI, refusal: Callable[..., JSONResponse]) -> None:
    """Answer what FastAPI cannot parse with one sentence, not a list of validation records."""

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        return refusal(422, sentence(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def pass_on(_: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__context__, RecursionError):  # it cannot be pickled for the worker
            return refusal(400, "the body is nested too deeply")
        return refusal(error.status_code, error.detail, error.headers)


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
