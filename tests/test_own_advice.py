"""The advice on a script that is not ours says what its verdicts say, and no more."""

from dataclasses import replace

from harness.own_server.advice import lines_to_add, literal, sentences
from harness.own_server.rows import OwnVariant
from harness.own_server.suite import OwnSuite
from harness.results.schema import Results
from harness.show.columns import shown_columns
from tests.builders import comparison, results, row, variant, verdict

WORKERS_2, WORKERS_4 = "workers_per_device=2", "workers_per_device=4"
BATCH = "max_batch_size=16"
BOTH = f"{WORKERS_2},{BATCH}"


def own_results(known: dict[tuple[str, str], tuple[float, str]], **changes) -> Results:
    """A run in which variants have these (percent, verdict) against the script as written, by name
    and load.
    """
    names = list(dict.fromkeys(name for name, _ in known))
    rows = [row(concurrency=int(load)) for load in dict.fromkeys(load for _, load in known)]
    made = {"as_written": variant(*rows, own=OwnVariant({}))}
    for name in names:
        own = OwnVariant(dict(part.split("=") for part in name.split(",")))
        server = {"workers_per_device": int(own.changes.get("workers_per_device", 1))}
        server |= {"api_servers": 1}
        made[name] = variant(*rows, builds_on="as_written", own=own, server=server)
    verdicts = [
        verdict(name, load, percent, word, against="as_written")
        for (name, load), (percent, word) in known.items()
    ]
    return results(made, package="harness.own_server", verdicts=verdicts, **changes)


def test_every_setting_is_named_under_every_load_the_fastest_value_first():
    run = own_results(
        {
            (WORKERS_2, "1"): (-1.0, "same"),
            (WORKERS_4, "1"): (1.0, "same"),
            (BATCH, "1"): (-50.0, "slower"),
            (WORKERS_2, "32"): (98.0, "faster"),
            (WORKERS_4, "32"): (290.0, "faster"),
            (BATCH, "32"): (3.0, "undecided"),
        }
    )
    assert sentences(run) == [
        f"for one at a time: workers_per_device: same by 1 % (2, 4); {BATCH}, slower by 50 %",
        f"for 32 at a time: {WORKERS_4}, faster by 290 %, {WORKERS_2}, faster by 98 %; "
        f"{BATCH}, undecided by 3 %",
    ]


def test_a_difference_that_is_known_to_lie_within_the_margin_is_told_as_the_same():
    run = own_results({(WORKERS_2, "8"): (1.0, "faster")})
    (made,) = run.verdicts
    known = replace(made, comparison=replace(made.comparison, ci95=(0.8, 1.2)))
    assert sentences(replace(run, verdicts=[known])) == [
        f"for 8 at a time: {WORKERS_2}, same within 5 % [+1, +1]"
    ]


def test_only_what_is_known_to_be_faster_becomes_a_line_and_where_it_is_slower_is_said():
    run = own_results(
        {
            (WORKERS_4, "1"): (1.0, "same"),
            (BATCH, "1"): (-50.0, "slower"),
            (WORKERS_4, "32"): (9.0, "undecided"),
            (BATCH, "32"): (300.0, "faster"),
        }
    )
    assert lines_to_add(run) == [
        "to put into the script, for 32 at a time (but slower by 50 % for one at a time):",
        "    MyAPI(max_batch_size=16)",
    ]


def test_each_load_has_lines_of_its_own_winner_with_the_http_processes_that_were_measured():
    run = own_results({(BOTH, "1"): (20.0, "faster"), (BOTH, "32"): (30.0, "faster")})
    assert lines_to_add(run) == [
        "to put into the script, for one at a time, 32 at a time:",
        "    MyAPI(max_batch_size=16)",
        "    LitServer(api, workers_per_device=2)",
        "    server.run(num_api_servers=1)",
    ]
    run = own_results(
        {
            (WORKERS_4, "1"): (20.0, "faster"),
            (BATCH, "1"): (10.0, "faster"),
            (WORKERS_4, "32"): (20.0, "faster"),
            (BATCH, "32"): (30.0, "faster"),
        }
    )
    heads = [line for line in lines_to_add(run) if not line.startswith(" ")]
    assert heads[:2] == [
        "to put into the script, for one at a time:",
        "to put into the script, for 32 at a time:",
    ]
    assert "together they were not measured" in heads[2]


def test_where_nothing_is_known_to_be_faster_nothing_is_to_be_put_into_the_script():
    run = own_results({(BATCH, "1"): (3.0, "undecided")})
    nothing = "nothing to change in the script: no setting is known to be faster by more than 5 %"
    assert lines_to_add(run) == [nothing]
    assert lines_to_add(own_results({(BATCH, "1"): (1.0, "faster")})) == [nothing]
    alone = replace(run, variants={"as_written": run.variants["as_written"]}, verdicts=[])
    assert (lines_to_add(alone), sentences(alone)) == ([], [])


def test_a_row_with_wrong_answers_is_named_as_not_counted():
    run = own_results({(BATCH, "1"): (3.0, "same")})
    wrong = replace(comparison(0.0), verdict="not counted", percent=None, text="not counted: 3")
    run = replace(run, verdicts=[replace(run.verdicts[0], comparison=wrong)])
    assert sentences(run) == [f"for one at a time: {BATCH}, not counted: 3"]


def test_values_are_written_as_python_does():
    assert [*map(literal, ("2", "0.01", "true", "none", "fp16"))] == [
        "2",
        "0.01",
        "True",
        "None",
        "'fp16'",
    ]


def test_columns_that_say_nothing_of_any_row_are_left_out():
    run = own_results({(BATCH, "1"): (3.0, "same")})
    own = OwnSuite.own_row()
    plain = {
        name: replace(each, rows=[replace(r, own=own) for r in each.rows])
        for name, each in run.variants.items()
    }
    headings = [each.heading for each in shown_columns(replace(run, variants=plain), OwnSuite)]
    assert "MB per worker" not in headings
    with_memory = {
        name: replace(each, rows=[replace(r, worker_memory_bytes=37_000_000) for r in each.rows])
        for name, each in plain.items()
    }
    shown = shown_columns(replace(run, variants=with_memory), OwnSuite)
    (memory,) = (each for each in shown if each.heading == "MB per worker")
    assert memory.cell(with_memory[BATCH].rows[0]) == "37"
    assert not any("event" in each.heading for each in shown)
