"""The MNIST benchmark: what counts as correct, what is sent, the ceilings above a variant."""

import base64
import json

import pytest

from harness.measure.window import OfferedLoad
from harness.results.summary import row_of
from mnist_model_benchmarking.checks import DigitCheck
from mnist_model_benchmarking.rows import ImageRow, ImageVariant, ModelAlone
from mnist_model_benchmarking.suite import MnistSuite, grouped, request_body
from tests.builders import load_result, no_op_server, rate, variant, window

ALONE = ModelAlone(batch_sizes=[1, 8, 64], images_per_second=[900.0, 9000.0, 7000.0])


def answer(*digits: int) -> bytes:
    return json.dumps({"predictions": [{"digit": digit} for digit in digits]}).encode()


def suite(**changes) -> MnistSuite:
    fields = {
        "bodies": [b"{}"] * 100,
        "request": "",
        "output_per_request": 1,
        "check": lambda body, index: (True, 1.0),
        "sample_answer": b"",
        "reference": None,
        "accelerator": "cpu",
    }
    return MnistSuite(**fields | changes)


def test_an_answer_is_correct_if_every_digit_is_what_the_model_sees_whatever_its_label():
    check = DigitCheck(expected=[[7, 1]], labels=[[7, 2]])
    assert check(answer(7, 1), 0) == (True, 0.5)
    assert check(answer(7, 2), 0) == (False, 1.0)
    assert check(answer(7), 0) == (False, 0.5)
    for broken in (b"", b"{}", b"[]", b'{"predictions": [7]}', b'{"predictions": [{"d": 7}]}'):
        assert check(broken, 0) == (False, 0.0)


def test_every_request_has_its_number_of_images_and_all_are_used_as_often():
    assert grouped([1, 2, 3, 4], 2) == [[1, 2], [3, 4]]
    assert grouped([1, 2, 3], 5) == [[1, 2, 3, 1, 2]]
    assert json.loads(request_body([b"x"])) == {"image": base64.b64encode(b"x").decode()}
    assert len(json.loads(request_body([b"x", b"y"]))["images"]) == 2


def test_accuracy_is_the_mean_over_all_judged_answers():
    windows = [window(load_result(quality=[1.0, None])), window(load_result(quality=[0.0, 0.5]))]
    assert suite().row(windows) == ImageRow(accuracy=0.5)
    assert suite().row([window(load_result(quality=[None]))]) == ImageRow(accuracy=None)


@pytest.mark.parametrize(("images", "sent"), [(1, 64), (16, 4), (500, 1)])
def test_what_is_measured_in_process_is_about_one_batch_of_images(images, sent):
    calls = []
    made = suite(output_per_request=images, reference=lambda *call: calls.append(call))
    made.in_process("batching")
    assert calls == [("decode_and_model", "batching", [b"{}"] * sent, "cpu")]


def test_ceilings_run_from_the_model_alone_down_to_what_was_served():
    own = ImageRow(accuracy=1.0)
    served = row_of(OfferedLoad(4), [window(load_result(0.01))], rate(100.0), 10, own, {})
    measured = variant(
        served,
        own=ImageVariant(baseline_throughput=ALONE),
        in_process_per_second=5000.0,
        no_op_server=no_op_server(300.0, concurrency=4),
    )
    ceilings = MnistSuite.ceilings(measured)
    assert [ceiling.name for ceiling in ceilings] == [
        "the model alone, batches of 8",
        "decode + model, one core",
        "no-op server at concurrency 4",
        "served at concurrency 4",
    ]
    rates = [ceiling.per_second for ceiling in ceilings]
    assert rates == pytest.approx([9000, 5000, 3000, 1000])


def test_a_server_of_another_machine_has_no_ceilings_here():
    own = ImageVariant(baseline_throughput=ALONE)
    assert MnistSuite.ceilings(variant(own=own, startup_s=None)) == []
