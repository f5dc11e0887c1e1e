"""The picture that only this folder has: the models alone, without a server."""

from matplotlib.figure import Figure

from harness.results.schema import Results
from harness.show.panels import from_zero, legend_below, page, styles


def charts(results: Results) -> dict[str, Figure]:
    """The model alone over the batch size, if it was measured."""
    measured = any(variant.own.baseline_throughput for variant in results.variants.values())
    return {"throughput/model_alone.png": model_figure(results)} if measured else {}


def model_figure(results: Results) -> Figure:
    """A line per variant: each is measured on its own class."""
    sent = "no server, no requests: forward passes one after the other"
    figure, (axes,) = page(results, "The model alone", 1, 1, (9, 5.8), sent)
    looks, sizes = styles(results.variants), set()
    for name, variant in results.variants.items():
        if alone := variant.own.baseline_throughput:
            colour, marker = looks[name]
            rates = alone.images_per_second
            axes.plot(alone.batch_sizes, rates, color=colour, marker=marker, label=name)
            sizes |= set(alone.batch_sizes)
    sizes = sorted(sizes)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("batch size (images per forward pass)")
    axes.set_ylabel("images per second, one process")
    from_zero(axes)
    axes.grid(alpha=0.3)
    legend_below(figure, axes, columns=3)
    return figure
