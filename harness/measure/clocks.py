"""Three clocks, compared at the edges of a window: was the machine suspended, or its clock set?"""

import time
from typing import NamedTuple

DISTURBED_S = 0.1  # well above what keeping a clock right takes, or reading three of them


class Clocks(NamedTuple):
    """What they say at one moment, seconds.

    Attributes:
        monotonic: stands still while the machine is suspended.
        boot: goes on meanwhile; None where there is none (macOS).
        wall: may be set.
    """

    monotonic: float
    boot: float | None
    wall: float


def read_clocks() -> Clocks:
    """The clocks now."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    boot_s = None if boot is None else time.clock_gettime(boot)
    return Clocks(time.monotonic(), boot_s, time.time())


def disturbance(before: Clocks, after: Clocks) -> str | None:
    """What happened to the clocks between the two, in words; None if nothing did."""
    passed_s, wall_s = after.monotonic - before.monotonic, after.wall - before.wall
    if before.boot is None or after.boot is None:
        if abs(wall_s - passed_s) <= DISTURBED_S:
            return None
        return f"the machine was suspended, or its clock set, by {wall_s - passed_s:+.1f} s"
    asleep_s = after.boot - before.boot - passed_s
    set_s = wall_s - passed_s - asleep_s
    if asleep_s > DISTURBED_S:
        return f"the machine was suspended for {asleep_s:.1f} s"
    return f"the clock was set by {set_s:+.1f} s" if abs(set_s) > DISTURBED_S else None
