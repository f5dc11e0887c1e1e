"""The command line that both benchmark scripts share."""

import argparse
from collections.abc import Callable
from pathlib import Path

QUICK = {"rounds": 1, "duration": 1.0, "warmup": 0.3}


def listed(kind: Callable[[str], float]) -> Callable[[str], list]:
    """A parser of comma-separated positive numbers; they come out in order, each once."""

    def numbers(text: str) -> list:
        values = [kind(part) for part in text.split(",")]
        if not values or min(values) <= 0:
            raise ValueError
        return sorted(set(values))

    numbers.__name__ = f"list of positive {kind.__name__}s"  # argparse names it in its message
    return numbers


def positive(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not value > 0:
        raise ValueError
    return value


def count(text: str) -> int:
    """A whole number above 0."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def benchmark_parser(
    description: str, variants: list[str], concurrency: list[int], quick_concurrency: list[int], output: Path
) -> argparse.ArgumentParser:
    """The options that say which variants to measure, under which load, how long, and where the results go."""

    def names(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = sorted(set(chosen) - set(variants))
        if unknown:
            raise argparse.ArgumentTypeError(f"no such variant: {', '.join(unknown)}; there are {', '.join(variants)}")
        return [name for name in variants if name in chosen]

    parser = argparse.ArgumentParser(description=description)
    parser.presets = {"quick": QUICK | {"concurrency": quick_concurrency}}
    add = parser.add_argument
    add(
        "--variants",
        type=names,
        default=variants,
        metavar="A,B",
        help=f"which to measure (default: {','.join(variants)})",
    )
    add("--concurrency", type=listed(int), default=concurrency, metavar="N,N",
        help=f"requests in flight, one level each (default: {','.join(map(str, concurrency))})")  # fmt: skip
    add("--rounds", type=count, default=3, help="fresh launches of every variant (default: %(default)s)")
    add("--duration", type=positive, default=3.0, help="seconds to measure per level (default: %(default)s)")
    add("--warmup", type=positive, default=0.5, help="seconds of load before that (default: %(default)s)")
    add("--rate", type=listed(float), metavar="R,R",
        help="open loop instead: requests per second that arrive whatever the server does, one level each")  # fmt: skip
    add("--slo-p99-ms", type=positive, metavar="MS",
        help="also search each variant's capacity: the rate at which 99 %% of answers come within MS")  # fmt: skip
    add("--accelerator", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where the models run")
    add("--api-servers", type=count, default=1, help="HTTP processes per server (default: %(default)s)")
    add("--output-dir", type=Path, default=output, help="where results and charts go (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the order of turns and requests (default: %(default)s)")
    add(
        "--timeout", type=positive, default=30.0, help="seconds after which a request has failed (default: %(default)s)"
    )
    add("--quick", action="store_true", help="a first look: one short round; too little for verdicts")
    add("--url", help="measure the server that runs there already; it is neither launched nor stopped")
    return parser


class Sweep(argparse.Action):
    """--sweep SETTING N,N: one of `choices` and its values, as (setting, values)."""

    def __call__(
        self, parser: argparse.ArgumentParser, options: argparse.Namespace, words: list[str], _: str | None = None
    ) -> None:
        setting, values = words
        if setting not in self.const:
            parser.error(f"--sweep: no such setting: {setting}; there are {', '.join(self.const)}")
        try:
            options.sweep = (setting, listed(int)(values))
        except ValueError:
            parser.error(f"--sweep: {values} is no list of positive numbers such as 1,8,64")


def parsed(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> argparse.Namespace:
    """The options; presets such as --quick change the defaults, not what was asked for beside them."""
    known = parser.parse_known_args(argv)[0]
    for flag, defaults in parser.presets.items():
        if getattr(known, flag):
            parser.set_defaults(**defaults)
    return parser.parse_args(argv)
