"""What is measured without a server is the variant's own: its model, its batching, its threads."""

import json
import os
from pathlib import Path

import pytest
import torch

import mnist_model_benchmarking
from harness.process.launch import running_server
from harness.process.module_command import CACHE, compiler_cache
from harness.process.module_process import LastingProcess
from llm_model_benchmarking import reference as language_reference
from mnist_model_benchmarking import reference
from mnist_model_benchmarking.digits import sample_files
from mnist_model_benchmarking.suite import request_body

PACE_S = 0.02  # of every forward pass of another model: no machine is faster than that
OTHER_MODEL = f"""
import time
from mnist_model_benchmarking.server_batching import BatchingAPI
from harness.serving.serve import serve

class OtherModelAPI(BatchingAPI):
    def probabilities(self, images):
        time.sleep({PACE_S})
        return super().probabilities(images).flip(1)

if __name__ == "__main__":
    serve(OtherModelAPI(max_batch_size=4, batch_timeout=0.01), workers_per_device=2)
"""
FILES = [content for content, _ in sample_files(12)]
BODIES = [request_body([content]) for content in FILES]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(reference, "REPEAT_S", 0.01)
    monkeypatch.setattr(reference, "BATCH_SIZES", [1, 8])


@pytest.fixture
def other_model(tmp_path, monkeypatch) -> str:
    """A variant whose script is not of this project, and whose model is another one."""
    (tmp_path / "server_other_model.py").write_text(OTHER_MODEL)
    places = [*mnist_model_benchmarking.__path__, str(tmp_path)]
    monkeypatch.setattr(mnist_model_benchmarking, "__path__", places)
    yield "other_model"
    reference.set_up.cache_clear()


def digits(texts: list[str]) -> list[int]:
    return [prediction["digit"] for text in texts for prediction in json.loads(text)["predictions"]]


def test_a_variant_with_another_model_gets_its_own_figures(other_model):
    alone = reference.models_alone(["baseline", other_model], "cpu")
    assert alone[other_model].batch_sizes == [1, 8]
    for size, rate in zip([1, 8], alone[other_model].images_per_second, strict=True):
        assert 0 < rate <= size / PACE_S
    assert alone["baseline"].images_per_second != alone[other_model].images_per_second
    answered = digits(reference.answered(reference.set_up(other_model, "cpu"), BODIES))
    assert answered == [9 - digit for digit in reference.answers(FILES)]


def test_a_variant_is_batched_as_its_script_says(other_model):
    assert reference.api_of("baseline").max_batch_size == 1
    assert reference.api_of("batching").max_batch_size == 64
    assert reference.api_of(other_model).max_batch_size == 4
    rate = reference.decode_and_model(other_model, BODIES, "cpu")
    assert 0 < rate <= 4 / PACE_S  # three batches of four: three forward passes


@pytest.mark.parametrize("name", ["baseline", "batching", "parallel_decoding"])
def test_variants_with_and_without_batches_and_pools_answer_correctly_on_one_core(name):
    api = reference.set_up(name, "cpu")
    with reference.one_core():
        assert digits(reference.answered(api, BODIES)) == reference.answers(FILES)
    assert hasattr(api, "pool") == (name == "parallel_decoding")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads cannot be pinned here")
def test_a_pool_keeps_to_the_one_core_and_is_free_again_afterwards():
    api = reference.set_up("parallel_decoding", "cpu")
    all_cores = os.sched_getaffinity(0)

    def cores_of_pool() -> list[set[int]]:
        asked = [api.pool.submit(os.sched_getaffinity, 0) for _ in range(8)]
        return [future.result() for future in asked]

    with reference.one_core():
        assert {len(cores) for cores in cores_of_pool()} == {1}
    assert all(cores == all_cores for cores in [*cores_of_pool(), os.sched_getaffinity(0)])


@pytest.fixture
def language_models(monkeypatch):
    """Of this test alone: with float32 weights, in which all variants are the same model."""
    monkeypatch.setattr(language_reference, "apis", {})
    monkeypatch.setattr(language_reference, "loading", {})
    flags = ("--model", "random:tiny", "--max-context", "128", "--dtype", "float32")
    language_reference.load_with(flags, "cpu")
    yield language_reference
    language_reference.log_probabilities.cache_clear()
    torch.compiler.set_stance("default")


def test_a_model_finds_what_its_server_has_compiled_and_compiles_elsewhere_before(
    monkeypatch, tmp_path
):
    monkeypatch.setenv(CACHE, str(tmp_path))
    theirs = compiler_cache("one.server", tmp_path)
    assert language_reference.compiled_by("one.server")[CACHE] != theirs[CACHE]
    Path(theirs[CACHE]).mkdir()
    assert language_reference.compiled_by("one.server") == theirs
    monkeypatch.delenv(CACHE)
    assert language_reference.compiled_by("one.server") == {}


def test_what_a_server_has_compiled_is_not_compiled_again_without_it(monkeypatch, tmp_path):
    """Its cache tells: whatever is compiled leaves a graph there."""
    monkeypatch.setenv(CACHE, str(tmp_path))
    flags = "--model", "random:tiny", "--max-context", "128"
    with running_server("llm_model_benchmarking.server_static_kv_compile", *flags):
        pass
    graphs = set(tmp_path.rglob("fxgraph/*/*"))
    with LastingProcess("llm_model_benchmarking.reference") as models:
        models.tell("load_with", flags, "auto")
        models("set_up", "static_kv_compile")
    assert set(tmp_path.rglob("fxgraph/*/*")) == graphs != set()


def test_compiled_language_models_tell_their_divergence_without_compiling_anew(language_models):
    """One after the other in a process, as a benchmark asks them."""
    for name in ("static_kv_compile", "fused_decoding"):  # whose step continuous_batching shares
        assert language_models.kl_divergence(name) == pytest.approx(0, abs=1e-6)
    likely = language_models.log_probabilities("baseline")
    assert likely.std(axis=0).max() > 0.01  # the text matters: a step that forgot it would show


def test_memory_bandwidth_is_that_of_the_type_whose_product_reads_fastest(
    language_models, monkeypatch
):
    read = {torch.float16: 29e9, torch.float32: 17e9}  # the latter is the model's own here
    monkeypatch.setattr(language_models, "bytes_read_per_s", lambda dtype, _: read[dtype])
    assert language_models.memory_bandwidth() == 29e9


def test_a_product_tells_how_many_bytes_it_reads(monkeypatch):
    monkeypatch.setattr(language_reference, "BANDWIDTH_BYTES", 1 << 24)
    read = language_reference.bytes_read_per_s(torch.float32, torch.device("cpu"))
    assert 1e8 < read < 1e13
