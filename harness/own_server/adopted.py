"""A LitServer that somebody's script has made, adopted: /info, /stats and the clocks added."""

import argparse
import inspect
from collections.abc import Mapping
from functools import partial, wraps
from typing import Any, NamedTuple

import litserve
import litserve.server
from fastapi import Depends
from litserve.loops import inference_worker

from harness.own_server.clocks import Clocks, TakenRequests, clocks_of
from harness.own_server.settings import Settings
from harness.process.groups import die_with_parent
from harness.serving.admission import AdmissionControl, QueueClock
from harness.serving.counters import Counters, WorkerCounter
from harness.serving.serve import observe
from harness.serving.served_api import served

COUNTED_SIZES = 1024  # of batches, at least: setup may ask for larger ones than were made known


class Adopted(NamedTuple):
    """What a worker needs to know of its API.

    Attributes:
        clocks: that fit its loop.
        counters: where its totals are kept.
        settings: attributes that must hold, whatever setup makes of them.
    """

    clocks: type[Clocks]
    counters: Counters
    settings: Mapping[str, Any]


def adopted_worker(
    adopted: Mapping[str, Adopted],
    api: litserve.LitAPI,
    device: str,
    worker_id: int,
    request_queue: Any,
    transport: Any,
    status: Any,
    callback_runner: litserve.callbacks.CallbackRunner,
    restart_workers: bool,
) -> None:
    """LitServe's inference worker, with clocks; it runs in a process of its own."""
    die_with_parent()
    own = adopted[api.api_path]
    clocks = own.clocks(api, WorkerCounter(own.counters, worker_id))
    setup = api.setup

    @wraps(setup)
    def clocked_setup(device: str) -> None:
        del api.setup
        setup(device)
        for name, value in own.settings.items():
            setattr(api, name, value)
        if api.max_batch_size > own.counters.max_batch_size:
            most = own.counters.max_batch_size
            raise ValueError(f"setup raised max_batch_size to {api.max_batch_size}, above {most}")
        clocks.install()

    api.setup = clocked_setup
    # the clock of the HTTP processes: here LitServe would call it six times per batch for nothing
    callbacks = callback_runner._callbacks
    callbacks[:] = [each for each in callbacks if not isinstance(each, QueueClock)]
    queue = TakenRequests(request_queue, clocks)
    rest = transport, status, callback_runner, restart_workers
    inference_worker(api, device, worker_id, queue, *rest)


def adopt(
    server: litserve.LitServer, variant: str, options: argparse.Namespace, settings: Settings
) -> None:
    """Add the clocks, /stats and what /info tells to a server that is about to run."""
    adopted = {
        api.api_path: Adopted(
            clocks, counters_for(server, api, clocks, options), settings.in_loop(api)
        )
        for api in server.litapi_connector
        for clocks in [clocks_of(api)]
    }
    litserve.server.inference_worker = partial(adopted_worker, adopted)
    counters = [each.counters for each in adopted.values()]
    server.app.add_middleware(
        AdmissionControl, counters=counters[0], refusal=served(None).refusal
    )  # without bounds it refuses nothing
    server._callback_runner._add_callbacks(QueueClock())
    server.model_metadata = told(server, variant, options, settings)
    tell_where_expected(server)
    observe(server, options.run_id, counters)


def counters_for(
    server: litserve.LitServer,
    api: litserve.LitAPI,
    clocks: type[Clocks],
    options: argparse.Namespace,
) -> Counters:
    """The totals of one API's workers."""
    workers = len(server._inference_workers_config_for_api(api.api_path))
    largest = max(api.max_batch_size, COUNTED_SIZES)
    return Counters(workers, options.api_servers, largest, clocks.stages)


def told(
    server: litserve.LitServer, variant: str, options: argparse.Namespace, settings: Settings
) -> dict[str, Any]:
    """The model metadata of /info: the script's own, and what measuring needs."""
    own = server.model_metadata or {}
    apis = {
        api.api_path: {
            "workers_per_device": server._workers_per_device_by_api_path[api.api_path],
            "max_batch_size": api.max_batch_size,
            "batch_timeout_s": api.batch_timeout,
            "streams": api.stream,
            "api": type(api).__name__,
        }
        for api in server.litapi_connector
    }
    return (own if isinstance(own, dict) else {"model_metadata": own}) | {
        "variant": variant,
        "run_id": options.run_id,
        "accelerator": server._connector.accelerator,
        "api_servers": options.api_servers,
        **next(iter(apis.values())),
        "settings": settings.in_effect,
        "paths": list(apis),
        "apis": apis,
    }


def tell_where_expected(server: litserve.LitServer) -> None:
    """Answer /health and /info as well where the script has other paths for them, or its own way to
    authorize requests, which nobody here knows.
    """
    routes = {route.path: route for route in server.app.routes}
    own_way = hasattr(server.lit_api, "authorize")
    for path, asked in (("/health", server.healthcheck_path), ("/info", server.info_path)):
        if own_way or asked != path:
            server.app.add_api_route(
                path,
                routes[asked].endpoint,
                dependencies=[] if own_way else [Depends(server.setup_auth())],
                response_model=None,
            )
            server.app.router.routes.insert(0, server.app.router.routes.pop())


def arguments_given(function: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    """The arguments of a call by name, those of ** among them."""
    given = inspect.signature(function).bind(*arguments, **options).arguments
    return given | given.pop("kwargs", {})
