"""Settings to vary: each makes variants of a script, one at a time or in every combination."""

import argparse
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

MOST = 12  # variants besides the script as written
AS_WRITTEN = "as_written"
INFO_NAMES = {"batch_timeout": "batch_timeout_s", "num_api_servers": "api_servers"}  # in /info


class Change(NamedTuple):
    """A setting and the value it is given, as text."""

    name: str
    value: str


Variants = dict[str, tuple[Change, ...]]


class TooManyVariantsError(ValueError):
    """More variants than can be told apart in reasonable time; the message says how many."""


def varied(text: str) -> list[Change]:
    """The changes of "NAME=V,V"; ArgumentTypeError if that is none."""
    name, _, values = (part.strip() for part in text.partition("="))
    values = [value.strip() for value in values.split(",")]
    if not name.isidentifier() or not all(values):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=VALUE,VALUE")
    if "@" in text:
        raise argparse.ArgumentTypeError(f"{text!r}: a value cannot contain @")
    return [Change(name, value) for value in dict.fromkeys(values)]


def by_name(changes: Iterable[list[Change]]) -> list[list[Change]]:
    """All changes of a setting together, in the order in which they were named first."""
    grouped: dict[str, list[Change]] = {}
    for change in itertools.chain(*changes):
        own = grouped.setdefault(change.name, [])
        own += [] if change in own else [change]
    return list(grouped.values())


def variants_of(settings: list[list[Change]], info: Mapping[str, Any], grid: bool) -> Variants:
    """By name, what each variant changes of the script as written.

    Args:
        settings: the changes of each.
        info: what the /info of the script as written tells: a value that it has already is no
            change.
        grid: every combination, not one at a time.

    Raises TooManyVariantsError.
    """
    changes = [[None if is_own(each, info) else each for each in setting] for setting in settings]
    if grid:
        made = [tuple(filter(None, combined)) for combined in itertools.product(*changes)]
    else:
        made = [(change,) for setting in changes for change in setting if change]
    names = {name_of(each): each for each in made if each}
    if len(names) > MOST:
        raise TooManyVariantsError(
            f"these are {len(names)} variants besides the script as written, and {MOST} can be "
            "told apart: narrow them down"
        )
    return names


def name_of(changes: tuple[Change, ...]) -> str:
    """The variant's name: "workers_per_device=2,max_batch_size=16"."""
    return ",".join(f"{name}={value}" for name, value in changes)


def is_own(change: Change, info: Mapping[str, Any]) -> bool:
    """Whether the script as written has this value already, as far as its /info tells."""
    in_effect = info.get("settings") or {}
    own = in_effect.get(change.name, info.get(INFO_NAMES.get(change.name, change.name)))
    if isinstance(own, bool) or not isinstance(own, int | float):
        return own is not None and str(own).lower() == change.value.lower()
    try:
        return math.isclose(own, float(change.value))
    except ValueError:
        return False
