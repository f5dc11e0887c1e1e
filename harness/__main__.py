"""Which settings pay off for a LitServe script that is not ours? Measure it as it is, and varied.

    python -m harness my_server.py --body requests.jsonl --vary workers_per_device=1,2,4
    python -m harness --url http://127.0.0.1:8000 --path /predict --body request.json

The script runs unmodified. What comes after -- are its own arguments.
"""

import argparse
import sys
from pathlib import Path

from harness.cli import benchmark, benchmark_parser, parsed
from harness.load.connection import JSON
from harness.own_server.bodies import header, url_path
from harness.own_server.suite import OwnSuite, suite
from harness.own_server.unloaded import AUTO, CHECKS
from harness.own_server.varied import by_name, varied

PROGRAM = "python -m harness"


def parser() -> argparse.ArgumentParser:
    """The options that all benchmarks share, and those about a script that is not ours."""
    options = benchmark_parser(
        OwnSuite,
        __doc__.partition("\n")[0],
        Path("benchmark_results"),
        concurrency=[1, 8, 32],
        minutes=6.0,
        quick={"concurrency": [1, 8], "minutes": 0.75},
        precise_minutes=30.0,
        choose_variants=False,
    )
    options.prog = PROGRAM
    options.usage = f"{PROGRAM} [options] [SCRIPT] [-- arguments of the script]"
    options.set_defaults(accelerator=None)
    add = options.add_argument
    add("script", nargs="?", metavar="SCRIPT", help="a file, or a module's name")
    add(
        "--body",
        type=Path,
        required=True,
        help="requests: a .jsonl file with a JSON document per line, a .json file, or a folder of "
        "them",
    )
    add(
        "--content-type",
        default=JSON,
        metavar="TYPE",
        help="if not %(default)s, --body is a file, or a folder of files, sent as they are",
    )
    add("--header", type=header, action="append", default=[], help="'Name: value', repeatable")
    add(
        "--path",
        type=url_path,
        help="where to POST, with a query or without (default: the server's only endpoint)",
    )
    add(
        "--check",
        choices=CHECKS,
        default=AUTO,
        help="same: answers must be those without load; status: they must be whole and a 200 "
        "(default: same, if every request is answered alike twice)",
    )
    add(
        "--vary",
        type=varied,
        action="append",
        default=[],
        metavar="NAME=V,V",
        help="measure the script with this setting at these values as well; repeatable",
    )
    add("--grid", action="store_true", help="vary settings in every combination, not by turns")
    return options


def asked(argv: list[str]) -> argparse.Namespace:
    """The options; what follows "--" are the script's own `arguments`."""
    own = argv.index("--") if "--" in argv else len(argv)
    made = parser()
    options = parsed(made, argv[:own])
    options.arguments = argv[own + 1 :]
    options.vary = by_name(options.vary)
    if bool(options.script) == bool(options.url):
        made.error("name either a script, which is launched, or the --url of a server that runs")
    if options.url and (options.vary or options.arguments):
        made.error("what runs already cannot be varied: --vary and -- need a script")
    return options


def main() -> None:
    options = asked(sys.argv[1:])
    headers = dict(options.header)
    options.header = list(headers)  # results keep the options, and values may be secrets
    sys.exit(benchmark(lambda: suite(options, headers), options, find=lambda _: None))


if __name__ == "__main__":
    main()
