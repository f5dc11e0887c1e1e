"""The pictures: what stands on them, also where a variant failed or nothing is known."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.judge.judgement import judged
from harness.measure.utilisation import RoleMemory
from harness.results.rows import Row
from harness.results.schema import Results
from harness.show import charts
from harness.show.breakdown_charts import breakdown_figures, share_text
from harness.show.memory import memory_figure
from harness.show.panels import GIB, styles
from llm_model_benchmarking import charts as llm_charts
from llm_model_benchmarking.rows import TokenRow, TokenVariant
from mnist_model_benchmarking import charts as mnist_charts
from mnist_model_benchmarking.rows import ImageVariant, ModelAlone
from tests.builders import (
    MACHINE,
    NO_USAGE,
    capacity_window,
    explained_row,
    failed_variant,
    no_op_server,
    rate,
    results,
    row,
    variant,
    windows_of,
)
from tests.numbers.suite import SUITE


def words(drawn: Figure | Axes) -> str:
    """Everything that is written on a page or a panel."""
    return "\n".join(text.get_text() for text in drawn.findobj(lambda each: hasattr(each, "_text")))


def panel(figure: Figure, title: str) -> Axes:
    """The panel whose title begins so."""
    return next(axes for axes in figure.axes if axes.get_title().startswith(title))


def two_variants(**changes) -> Results:
    """A baseline and a variant that builds on it, whose breakdowns and ceilings are known."""
    rows = [replace(explained_row(), batch_sizes={1: 5, 3: 10}, worker_shares=[0.6, 0.4])]
    server = no_op_server()
    steady = variant(*rows, no_op_server=server)
    quick = variant(explained_row(predict=1.0), builds_on="steady", no_op_server=server)
    windows = windows_of({"steady": 100.0, "quick": 140.0}, load="4")
    return results({"steady": steady, "quick": quick}, windows=windows, **changes)


def test_every_picture_of_a_good_run_is_drawn(tmp_path):
    names = {
        str(path.relative_to(tmp_path)) for path in charts.draw(two_variants(), SUITE, tmp_path)
    }
    assert names == {
        "throughput/requests_per_second.png",
        "throughput/latency.png",
        "breakdown/request.png",
        "breakdown/differences.png",
        "breakdown/ceilings.png",
        "breakdown/batch_sizes.png",
        "utilisation/benchmark_results_steady.png",
        "utilisation/benchmark_results_quick.png",
    }
    assert all((tmp_path / name).stat().st_size > 10_000 for name in names)


def test_memory_is_drawn_by_role_beside_the_speed(tmp_path):
    workers = RoleMemory(2, 60_000_000, 200_000_000, 100_000_000, 700_000_000)
    run = two_variants()
    known = replace(run.variants["steady"], memory={"workers": workers})
    run = replace(run, variants=run.variants | {"steady": known})
    assert tmp_path / "utilisation/memory.png" in charts.draw(run, SUITE, tmp_path)
    page = words(memory_figure(run))
    for text in (
        "server: workers",
        "its part of pages shared",
        "100",
        "GPU memory",
        "700",
        "best numbers/s",
    ):
        assert text in page


def test_a_page_names_machine_requests_epochs_and_notes():
    machine = MACHINE | {"gpus": ["a GPU"]}
    page = words(charts.throughput_figure(two_variants(machine=machine, notes=["NOT REAL"])))
    for text in ("a processor, 2 cores, a GPU", "closed loop, a number, 3 epochs", "NOT REAL"):
        assert text in page


def test_the_throughput_page_shows_our_own_intervals_and_no_others():
    run = results()
    figure = charts.throughput_figure(run)
    (axes,) = figure.axes
    assert axes.get_ylabel().startswith("requests/s, correct answers only")
    assert axes.get_xlabel() == "concurrency"
    reached = run.variants["steady"].rows[0].requests_per_second
    mean, interval = (line.get_ydata() for line in axes.lines[:2])
    assert list(mean) == pytest.approx([reached.mean])
    assert sorted(interval) == pytest.approx(reached.ci95)


def test_a_rate_without_an_interval_has_a_point_and_no_bar(tmp_path):
    alone = rate(100.0, resolution_percent=None)
    unsure = row(requests_per_second=alone, output_per_second=alone)
    run = results({"steady": variant(unsure)})
    (axes,) = charts.throughput_figure(run).axes
    heights = {float(height) for line in axes.lines for height in line.get_ydata()}
    assert {height for height in heights if not math.isnan(height)} == {100.0}
    assert charts.draw(run, SUITE, tmp_path)


def test_an_open_loop_is_drawn_over_the_offered_rate():
    offered = replace(row(), concurrency=None, offered_rate=100.0)
    windows = windows_of({"steady": 100.0}, load="100/s", epochs=1)
    run = results({"steady": variant(offered)}, settings={"rate": [100.0]}, windows=windows)
    page = words(charts.throughput_figure(run))
    assert "offered rate (requests/s)" in page
    assert "open loop, Poisson arrivals, a number, 1 epoch" in page


def test_percentiles_have_intervals_and_one_without_has_no_point_and_says_so():
    latency_ms = {"mean": 10.0, "p50": 10.0, "p95": 11.0, "p99": None}
    intervals = {"mean": (9.0, 11.0), "p50": (9.5, 10.4), "p95": None, "p99": None}
    few = replace(row(), latency_ms=latency_ms, latency_ci95_ms=intervals)
    figure = charts.latency_figure(results({"steady": variant(few)}))
    assert "approximate 95 % intervals (bootstrap over epochs and blocks)" in words(figure)
    p50, p95, p99 = figure.axes
    assert p50.get_title() == "p50"
    point, interval = (line.get_ydata() for line in p50.lines[:2])
    assert (list(point), sorted(interval)) == ([10.0], [9.5, 10.4])
    assert not p95.lines  # a latency without an interval is not shown
    assert p99.get_title() == "p99 (points are missing: too few requests)"
    assert not p99.lines


def test_the_breakdown_marks_what_litserve_costs_by_itself():
    figure = breakdown_figures(two_variants(), SUITE)["breakdown/request.png"]
    (axes,) = figure.axes
    marks = [line.get_xdata()[0] for line in axes.lines]
    assert marks == pytest.approx([1.0, 1.0])  # ingress, queue wait and response path together
    page = words(figure)
    for text in ("10.0 ms", "7.0 ms", "queue wait", "a lone request to the no-op server"):
        assert text in page


def test_differences_ceilings_and_batches_are_told_in_numbers():
    figures = breakdown_figures(two_variants(), SUITE)
    assert "-3.0" in words(figures["breakdown/differences.png"])
    assert "quick against steady, concurrency 4" in words(figures["breakdown/differences.png"])
    assert "(3 % of the one above)" in words(figures["breakdown/ceilings.png"])
    assert "share per worker: 60 %, 40 %" in words(figures["breakdown/batch_sizes.png"])


def test_a_variant_without_a_correct_answer_has_no_ceilings_drawn_and_the_panel_says_so():
    run = two_variants()
    wrong = replace(run.variants["quick"], rows=[replace(row(), output_per_second=rate(0.0))])
    run = replace(run, variants=run.variants | {"quick": wrong})
    drawn = words(breakdown_figures(run, SUITE)["breakdown/ceilings.png"])
    assert "nothing to compare: no correct answer" in drawn


def test_an_interval_of_rates_ends_below_the_frame():
    figure = charts.variant_figure(results(), SUITE, "steady")
    served = panel(figure, "Served over HTTP")
    (drawn,) = {line.get_linewidth(): line for line in served.lines if line.get_alpha()}.values()
    highest = max(drawn.get_ydata())
    assert highest > 0
    assert served.get_ylim()[0] == 0
    assert served.get_ylim()[1] > 1.04 * highest


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.5, "50 %"), (0.004, "0.4 %"), (1.0, "at"), (1.08, "at"), (1.24, "124 %")],
)
def test_a_rate_well_above_its_ceiling_is_not_said_to_be_at_it(share, text):
    assert share_text(share).startswith(f" ({text}")


def capacity_results() -> Results:
    """A baseline whose capacity is known in two epochs, and a variant offered too little."""
    rates = {80.0: 0, 100.0: 30}
    windows = [
        capacity_window("steady", rate * (1 + 0.02 * epoch), late, 400, epoch=epoch)
        for epoch in (0, 1)
        for rate, late in rates.items()
    ]
    windows.append(capacity_window("slow", 1.0, 0, 20))
    variants = {"steady": variant(), "slow": variant(builds_on="steady")}
    return judged(results(variants, capacity_windows=windows))


def test_a_capacity_page_shows_late_shares_what_p99_allows_and_every_capacity(tmp_path):
    run = capacity_results()
    figure = charts.capacity_figure(run)
    late, carried = figure.axes
    rate = run.variants["steady"].capacity.requests_per_second
    for text in (
        "Capacity at p99 60 ms",
        "1 %: what p99 leaves out",
        f"steady: {rate.mean:.1f} [{rate.ci95[0]:.1f}, {rate.ci95[1]:.1f}] requests/s",
        "slow: not known in the time there was",
    ):
        assert text in words(figure)
    drawn = {tuple(point): len(dots.get_facecolors())
             for dots in late.collections for point in dots.get_offsets()}  # fmt: skip
    assert drawn == {(80, 0): 1, (100, 7.5): 0, (81.6, 0): 1, (102, 7.5): 0, (1, 0): 0}
    (bar,) = carried.containers
    assert [float(bar[0].get_xdata()[0]), *bar[2][0].get_segments()[0][:, 0]] == pytest.approx(
        [rate.mean, *rate.ci95]
    )
    assert tmp_path / "throughput/capacity.png" in charts.draw(run, SUITE, tmp_path)


def test_the_gpu_panel_shows_memory_power_and_energy():
    busy = replace(
        row(),
        gpu_percent=80.0,
        gpu_memory_bytes=3 * GIB,
        gpu_power_w=120.4,
        gpu_energy_j_per_request=0.1234,
    )
    sliced = replace(busy, concurrency=8, gpu_percent=None, gpu_energy_j_per_request=None)
    run = results({"steady": variant(busy, sliced)}, machine=MACHINE | {"gpus": ["a GPU"]})
    gpu = panel(charts.variant_figure(run, SUITE, "steady"), "GPU activity")
    assert gpu.get_ylabel() == "percent of time with any kernel running"
    first, second = (text for text in words(gpu).split("3.0 GiB")[1:])
    assert first.startswith("\n120 W\n0.123 J/request")
    assert second.startswith("\n120 W\n")
    assert "activity unknown" in words(gpu)


def test_without_readings_the_gpu_panel_says_why():
    here = words(charts.variant_figure(results(), SUITE, "steady"))
    assert "no GPU: nothing to show" in here
    silent = results(machine=MACHINE | {"gpus": ["a GPU"]})
    assert "the GPU gave no readings" in words(charts.variant_figure(silent, SUITE, "steady"))


def test_the_page_of_a_variant_shows_its_output_cpu_and_ceilings():
    page = words(charts.variant_figure(two_variants(), SUITE, "quick"))
    for text in ("numbers/s, correct answers only", "server: workers", "in process"):
        assert text in page


def test_the_cpu_of_a_server_that_was_not_launched_here_is_said_to_be_unknown(tmp_path):
    remote = variant(row(usage=NO_USAGE), server={}, startup_s=None, in_process_per_second=None)
    run = results({"steady": remote})
    page = words(charts.variant_figure(run, SUITE, "steady"))
    assert "it was not launched here" in page
    assert "no ceiling above it was measured" in page
    assert charts.draw(run, SUITE, tmp_path)


def test_a_failed_variant_breaks_no_picture_and_its_page_says_why(tmp_path):
    run = two_variants()
    run = replace(run, variants=run.variants | {"broken": failed_variant()})
    assert tmp_path / "utilisation/benchmark_results_broken.png" in charts.draw(
        run, SUITE, tmp_path
    )
    assert "no model" in words(charts.variant_figure(run, SUITE, "broken"))


def test_nothing_is_drawn_where_nothing_is_known(tmp_path):
    run = results({"steady": failed_variant(None)})
    names = {path.name for path in charts.draw(run, SUITE, tmp_path)}
    assert names == {"requests_per_second.png", "latency.png", "benchmark_results_steady.png"}
    assert "no variant could be measured" in words(charts.throughput_figure(run))


@pytest.mark.parametrize("count", [1, 8, 14, 40])
def test_any_number_of_variants_are_told_apart(count):
    looks = styles(f"variant {index}" for index in range(count))
    assert len(set(looks.values())) == count


def test_fourteen_variants_stand_on_one_page():
    many = {f"variant_{index}": variant(row(), row(concurrency=8)) for index in range(14)}
    figure = charts.throughput_figure(results(many))
    assert all(name in words(figure) for name in many)


def token_variant(**changes) -> TokenVariant:
    """What a good run knows of a language model; all unknown but for the changes if it failed."""
    known = {
        "avg_tokens_per_sec": 90.0,
        "theoretical_max_tokens_per_sec": 200.0,
        "model_bytes": 269_000_000,
        "compile_s": 24.0,
        "kl_divergence": 0.0004,
    }
    return TokenVariant(**dict.fromkeys(TokenVariant.__dataclass_fields__) | known | changes)


def token_results() -> Results:
    """A language model's run: a good variant and one that failed."""
    own = TokenRow(
        time_to_first_token_ms={"mean": 123.0},
        time_to_first_token_ci95_ms={"mean": (115.0, 131.0)},
        inter_token_latency_ms={"p50": 9.5, "p95": 12.0, "p99": None},
        inter_token_latency_ci95_ms={"p50": (9.2, 9.9), "p95": (11.0, 14.0), "p99": None},
        token_agreement=0.75,
    )
    unknown = TokenVariant(**dict.fromkeys(TokenVariant.__dataclass_fields__))
    good = variant(replace(row(), own=own), own=token_variant())
    return results({"baseline": good, "broken": failed_variant("baseline", own=unknown)})


def ladder_results() -> Results:
    """Five language model servers at 1, 4 and 16; the last but one serves many at once."""
    served = {  # output tokens/s, TTFT and ITL in milliseconds, at each concurrency
        "baseline": ((22, 22, 22), (52, 4200, 21_800), (43, 43, 43)),
        "static_kv_compile": ((26, 26, 26), (55, 3600, 18_500), (37, 37, 37)),
        "fused_decoding": ((62, 62, 63), (52, 1500, 7600), (14, 14, 14)),
        "continuous_batching": ((59, 140, 430), (56, 90, 290), (15, 24, 31)),
        "quantised_8bit": ((17, 17, 17), (114, 5600, 28_200), (55, 55, 55)),
    }
    under = {"baseline": None, "fused_decoding": "static_kv_compile"}
    under["continuous_batching"] = "fused_decoding"
    return results(
        {
            name: variant(
                *(ladder_row(*each) for each in zip((1, 4, 16), *figures, strict=True)),
                builds_on=under.get(name, "baseline"),
                in_process_per_second=1.02 * figures[0][0],
                own=token_variant(
                    avg_tokens_per_sec=float(figures[0][0]),
                    decode_tokens_per_sec=1000 / figures[2][0],
                    float32_token_agreement=1.0,
                ),
            )
            for name, figures in served.items()
        },
        unit="output tokens",
    )


def ladder_row(concurrency: int, per_second: float, ttft_ms: float, itl_ms: float) -> Row:
    """A row of a language model server whose figures are known to four percent."""
    itl = {"p50": itl_ms, "p95": 1.2 * itl_ms, "p99": 1.5 * itl_ms}
    own = TokenRow(
        time_to_first_token_ms={"mean": ttft_ms},
        time_to_first_token_ci95_ms={"mean": (0.96 * ttft_ms, 1.04 * ttft_ms)},
        inter_token_latency_ms=itl,
        inter_token_latency_ci95_ms={name: (0.96 * ms, 1.04 * ms) for name, ms in itl.items()},
        token_agreement=0.45,
    )
    rates = {"requests_per_second": rate(per_second / 32), "output_per_second": rate(per_second)}
    return replace(row(concurrency=concurrency), own=own, **rates)


def test_what_each_user_gets_is_drawn_over_what_all_get_with_every_concurrency():
    run = ladder_results()
    (axes,) = llm_charts.charts(run)[llm_charts.USERS_PATH].axes
    lines = {bars.get_label(): bars.lines[0].get_xydata() for bars in axes.containers}
    assert list(lines) == list(run.variants)
    assert lines["baseline"] == pytest.approx(numpy.array([(22, 22), (22, 5.5), (22, 1.375)]))
    assert lines["continuous_batching"][2] == pytest.approx((430, 430 / 16))
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == ["1", "4", "16"] * 5
    assert "wait included" in axes.get_ylabel()


def test_users_are_not_drawn_at_one_concurrency_or_in_an_open_loop():
    for loads in ((1,), (None,)):
        rows = [replace(ladder_row(1, 22, 52, 43), concurrency=load) for load in loads]
        one = results({"baseline": variant(*rows, own=token_variant())})
        assert llm_charts.USERS_PATH not in llm_charts.charts(one)


def test_under_the_panels_of_five_language_model_servers_no_name_runs_into_the_next():
    for figure in llm_charts.charts(ladder_results()).values():
        figure.draw_without_rendering()
        for axes in figure.axes:
            labels = [label.get_window_extent() for label in axes.get_xticklabels()]
            ordered = sorted((box for box in labels if box.width), key=lambda box: box.x0)
            assert all(one.x1 <= two.x0 for one, two in pairwise(ordered)), axes.get_title()


def test_the_language_model_page_has_six_panels_also_beside_a_failed_variant(tmp_path):
    (figure,) = llm_charts.charts(token_results()).values()
    assert len(figure.axes) == 6
    for title, text in {
        "Output tokens/s": "bandwidth: 200",
        "Time to first token (TTFT)": "123",
        "Inter-token latency (ITL)": "9.5",
        "Memory": "269",
        "Token agreement": "KL 0.0004 nats",
        "Start-up": "compile, first launch",
    }.items():
        axes = panel(figure, title)
        assert text in words(axes)
        assert "broken\nfailed" in words(axes)
    assert charts.saved(figure, tmp_path / "page.png").stat().st_size > 10_000


def test_the_language_model_page_shows_our_own_intervals_and_the_model_without_a_server():
    run = token_results()
    (figure,) = llm_charts.charts(run).values()
    speed = panel(figure, "Output tokens/s")
    reached = run.variants["baseline"].rows[0].output_per_second
    alone = run.variants["baseline"].in_process_per_second
    assert line_ends(speed) == pytest.approx(sorted([*reached.ci95, alone]))
    assert "one stream without a server" in words(speed)


def line_ends(axes: Axes) -> list[float]:
    """Heights at which error bars and level lines of a panel end, but for those of missing bars."""
    drawn = [path for lines in axes.collections for path in lines.get_segments()]
    return sorted({float(y) for segment in drawn for _, y in segment} - {0.0})


def test_ttft_and_itl_are_drawn_with_their_intervals_or_not_at_all():
    run = token_results()
    (figure,) = llm_charts.charts(run).values()
    assert line_ends(panel(figure, "Time to first token")) == pytest.approx([115, 131])
    assert line_ends(panel(figure, "Inter-token")) == pytest.approx([9.2, 9.9, 11.0, 14.0])
    assert words(figure).count("approximate 95 % intervals") == 2
    served = run.variants["baseline"].rows[0]
    own = replace(served.own, time_to_first_token_ci95_ms={"mean": None})
    without = variant(replace(served, own=own), own=token_variant())
    (figure,) = llm_charts.charts(replace(run, variants={"baseline": without})).values()
    assert "123" not in words(panel(figure, "Time to first token"))


def test_panels_without_data_say_why_and_a_missing_bar_has_no_number():
    run = token_results()
    own = replace(run.variants["baseline"].rows[0].own, token_agreement=None)
    plain = replace(run.variants["baseline"].rows[0], own=own)
    baseline = replace(run.variants["baseline"], rows=[plain])
    (figure,) = llm_charts.charts(replace(run, variants={"baseline": baseline})).values()
    assert "the server tells no token ids" in words(panel(figure, "Token agreement"))
    only_broken = replace(run, variants={"broken": run.variants["broken"]})
    (figure,) = llm_charts.charts(only_broken).values()
    assert words(figure).count("no variant could be measured") == 6


def test_each_variants_own_model_is_drawn_where_it_was_measured():
    shared, own = ModelAlone([1, 8], [1000.0, 5000.0]), ModelAlone([1, 8], [900.0, 7000.0])
    alone = {"baseline": shared, "batching": shared, "half_precision": own, "broken": None}
    variants = {name: variant(own=ImageVariant(each)) for name, each in alone.items()}
    figures = mnist_charts.charts(results(variants))
    (axes,) = figures["throughput/model_alone.png"].axes
    assert [line.get_label() for line in axes.lines] == ["baseline", "batching", "half_precision"]
    assert axes.get_ylabel() == "images per second, one process"
    assert mnist_charts.charts(results({"baseline": variant(own=ImageVariant(None))})) == {}
