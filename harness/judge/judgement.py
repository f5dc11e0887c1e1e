"""A whole run judged: verdicts, A/A control and advice, from its raw windows alone."""

from collections.abc import Iterable
from dataclasses import replace

from harness.judge.advice import advice, since_revision
from harness.judge.capacity import capacities, capacity_fits
from harness.judge.estimation import Estimate, equivalent
from harness.judge.verdicts import MARGIN_PERCENT, LoadFit, aa_control, load_fits, verdicts
from harness.results.schema import Best, Results


def judged(results: Results) -> Results:
    """The results with everything that follows from their windows."""
    known = capacity_fits(results.capacity_windows)
    fits = load_fits(results.windows, results.loads) | known
    carried = capacities(results.capacity_windows, known)
    baseline = results.baseline
    made = verdicts(fits, results.builds_on, baseline, results.measured_s / 60)

    def compare(variant: str, against: str, load: str) -> Estimate | None:
        return fits[load].variants(variant, against)

    return replace(
        results,
        variants={
            name: replace(variant, capacity=carried.get(name, variant.capacity))
            for name, variant in results.variants.items()
        },
        verdicts=made,
        aa_control=aa_control(fits),
        best={load: each for load, fit in fits.items() if (each := best(fit, results.builds_on))},
        advice=since_revision(made) if results.against else advice(made, baseline, compare),
    )


def best(fit: LoadFit, variants: Iterable[str]) -> Best | None:
    """The variant with the highest rate, and those that are the same within the margin.

    Wrong answers disqualify, however fast they come; None if no variant is left.
    """
    variants = [name for name in variants if fit.servers.get(name) and not fit.wrong[name]]
    if not variants:
        return None
    top = max(variants, key=lambda name: fit.rate(name).mean)
    others = {name: fit.variants(name, top) for name in variants if name != top}
    margin = MARGIN_PERCENT / 100
    return Best(top, [name for name, each in others.items() if each and equivalent(each, margin)])
