"""Load from many machines on a server that is not ours, with Locust: own bodies, same checks.

    locust -f harness/own_server/locustfile.py --host http://server:8000 --body requests.jsonl

Every node reads the same files: master and workers are started with the same options.
"""

import argparse
import sys
from typing import Any

from locust import events
from locust.runners import MasterRunner

from harness.load.connection import JSON
from harness.load.locust_user import user_of
from harness.own_server.bodies import UnusableBodiesError, bodies_in, header, url_path
from harness.own_server.suite import DEFAULT_PATH
from harness.own_server.unloaded import AUTO, CHECKS, learned
from harness.process.control import key_header
from harness.suite import CannotMeasureError

TIMEOUT_S = 30.0

OwnUser = user_of(DEFAULT_PATH, [], None, {})  # filled in below, once the options are known


@events.init_command_line_parser.add_listener
def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of python -m harness that are about requests; as text, for Locust sends them."""
    add = parser.add_argument
    add("--body", required=True, help="a .jsonl file, a .json file, or a folder of them")
    add("--content-type", default=JSON, help="if not %(default)s, files are sent as they are")
    add("--header", action="append", default=[], help="'Name: value'", include_in_web_ui=False)
    add("--path", default=DEFAULT_PATH, help="where to POST")
    add("--check", choices=CHECKS, default=AUTO, help="what an answer has to be")


@events.init.add_listener
def read_requests(environment: Any, **_: Any) -> None:
    """Read the bodies; ends this node with one sentence if they cannot be sent."""
    options = environment.parsed_options
    try:
        OwnUser.path = url_path(options.path)
        OwnUser.bodies = bodies_in(options.body, options.content_type)
        OwnUser.headers = key_header() | dict(map(header, options.header))
    except (UnusableBodiesError, argparse.ArgumentTypeError, OSError) as error:
        sys.exit(str(error))
    OwnUser.headers["Content-Type"] = options.content_type


@events.test_start.add_listener
def learn_answers(environment: Any, **_: Any) -> None:
    """Ask every request twice, on every node that sends load."""
    if isinstance(environment.runner, MasterRunner):
        return
    url = f"{environment.host.rstrip('/')}{OwnUser.path}"
    asked = environment.parsed_options.check
    try:
        answers = learned(url, OwnUser.bodies, OwnUser.headers, TIMEOUT_S, asked)
    except CannotMeasureError as error:
        print(error, file=sys.stderr)
        environment.process_exit_code = 2
        environment.runner.quit()
        return
    OwnUser.check = staticmethod(answers.check) if answers.check else None
    print(*answers.notes, sep="\n")
