"""All MNIST servers, really launched, over real HTTP: correct answers, refusals, clean ends."""

import base64
import gzip
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import pytest
import requests
import torch
from PIL import Image

from harness.measure.utilisation import ProcessTree
from harness.process.launch import attached_server, free_port, healthy, running_server
from harness.serving.serve import api_class
from mnist_model_benchmarking import server_parallel_decoding
from mnist_model_benchmarking.digits import image_file, sample_files
from mnist_model_benchmarking.model import load_model
from mnist_model_benchmarking.reference import answers
from mnist_model_benchmarking.staged_forward import StagedForward
from mnist_model_benchmarking.suite import VARIANTS
from tests.image_kinds import KINDS, content
from tests.servers import NOWHERE, mnist_server, one_by_one
from tests.settled import settled

ROOT = Path(__file__).parent.parent
FILES, LABELS = zip(*sample_files(), strict=True)
EXPECTED = answers(list(FILES))
JSON = {"Content-Type": "application/json"}
NAMES = [variant.name for variant in VARIANTS]


def base64_text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def gigantic_png() -> bytes:
    """The smallest PNG that claims 20,000 x 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def gif() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (28, 28)).save(buffer, "GIF")
    return buffer.getvalue()


def one(value: object) -> bytes:
    return json.dumps({"image": value}).encode()


PNG, PNG3 = base64_text(FILES[0]), base64_text(FILES[3])
BLACK = base64_text(content(Image.new("L", (4096, 4096))))
BAD_BODIES = {
    "missing field": b'{"picture": 1}',
    "both fields": json.dumps({"image": PNG, "images": [PNG]}).encode(),
    "wrong type": one(7),
    "null": one(None),
    "list of numbers": b'{"images": [1, 2]}',
    "not base64": one("%%%"),
    "not ascii": one("ü"),
    "base64 of junk": one(base64_text(b"junk" * 50)),
    "nothing": one(""),
    "truncated png": one(base64_text(FILES[0][:-60])),
    "truncated jpeg": one(base64_text(FILES[10][:200])),
    "gif": one(base64_text(gif())),
    "gigantic": one(base64_text(gigantic_png())),
    "512 of 4096 x 4096": json.dumps({"images": [BLACK] * 512}).encode(),
    "blank": one(base64_text(content(Image.new("L", (28, 28), 255)))),
    "empty body": b"",
    "broken json": b'{"image": ',
    "json list": b"[1]",
    "json of invalid utf-8": b'{"image": "\xff"}',
    "empty list": b'{"images": []}',
    "list of 10,000": json.dumps({"images": ["QQ=="] * 10_000}).encode(),
    "over the limit": b'{"image": "' + b"A" * (33 << 20) + b'"}',
}


@pytest.fixture(scope="module", params=one_by_one("mnist", *NAMES))
def server(request, shared_server):
    """Each variant in turn, launched once for all tests."""
    return shared_server(*mnist_server(request.param))


def post(server, body: bytes, headers: dict = JSON) -> requests.Response:
    return requests.post(f"{server.url}/predict", body, headers=headers, timeout=60)


def predicted(server, index: int) -> int:
    """The digit the server sees in one of the bundled images."""
    reply = post(server, one(base64_text(FILES[index])))
    assert reply.status_code == 200, reply.text
    prediction = reply.json()["predictions"][0]
    assert 0 <= prediction["probability"] <= 1
    return prediction["digit"]


def test_concurrent_requests_get_the_models_own_answers_in_batches(server):
    """In one try of five: a client that waits for a core sends one request at a time."""

    def totals():
        return server.stats()["workers"]

    def requests_of(workers):
        return sum(worker["requests"] for worker in workers)

    def mean_batch_size() -> float:
        before = settled(totals)
        processes = [psutil.Process(worker["pid"]) for worker in before]
        processes.insert(0, psutil.Process(server.pid))  # else its watch would miss the workers
        with ThreadPoolExecutor(64) as pool:
            for process in processes:  # until requests have come together
                process.suspend()
            digits = pool.map(lambda index: predicted(server, index), range(len(FILES)))
            time.sleep(0.5)
            for process in processes:
                process.resume()
        assert list(digits) == EXPECTED
        least = requests_of(before) + len(FILES)
        workers = settled(totals, lambda now: requests_of(now) >= least)
        assert requests_of(workers) == least
        return len(FILES) / sum(
            new["batches"] - old["batches"] for new, old in zip(workers, before, strict=True)
        )

    if server.info["max_batch_size"] == 1:
        assert mean_batch_size() == 1
    else:
        waits_for_company = server.info["workers_per_device"] == 1 and server.info["loop"] == "auto"
        least = 4 if waits_for_company else 1.1
        assert any(mean_batch_size() > least for _ in range(5))


def test_the_workers_are_as_many_processes_as_asked_for_and_all_of_them_serve(server):
    with ThreadPoolExecutor(64) as pool:
        list(pool.map(lambda index: predicted(server, index % len(FILES)), range(400)))
    workers = server.stats()["workers"]
    assert len({worker["pid"] for worker in workers}) == server.info["workers_per_device"]
    assert all(psutil.pid_exists(worker["pid"]) and worker["requests"] > 0 for worker in workers)


def test_many_images_in_one_request_are_answered_in_order(server):
    body = json.dumps({"images": [base64_text(content) for content in FILES[:64]]}).encode()
    predictions = post(server, body).json()["predictions"]
    assert [prediction["digit"] for prediction in predictions] == EXPECTED[:64]


def test_bad_input_gets_one_clear_sentence_and_leaves_its_neighbours_alone(server):
    """Good and bad requests travel together, so that they share batches."""
    kinds = list(BAD_BODIES)
    jobs = [("good", index) for index in range(60)]
    jobs += [("bad", index) for index in range(len(kinds))] * 2
    jobs = [job for pair in zip(jobs[:50], jobs[50:], strict=False) for job in pair]

    def run(job):
        kind, index = job
        if kind == "good":
            return predicted(server, index)
        return post(server, BAD_BODIES[kinds[index]])

    with ThreadPoolExecutor(32) as pool:
        outcomes = list(pool.map(run, jobs))
    for (kind, index), outcome in zip(jobs, outcomes, strict=True):
        if kind == "good":
            assert outcome == EXPECTED[index]
            continue
        assert 400 <= outcome.status_code < 500, (kinds[index], outcome.text)
        sentence = outcome.json()["detail"]
        assert isinstance(sentence, str), kinds[index]
        assert 10 < len(sentence) < 200, (kinds[index], sentence)


def test_a_digit_is_read_in_every_kind_of_file_and_as_base64_is_written(server):
    with Image.open(io.BytesIO(FILES[3])) as digit:
        files = [file(digit.convert("L")) for file in KINDS.values()]
    texts = [base64_text(file) for file in files]
    texts += [f"data:image/png;base64,{PNG3}", f"{PNG3[:76]}\r\n{PNG3[76:]}\n", PNG3.rstrip("=")]
    texts += [base64.urlsafe_b64encode(FILES[3]).decode()]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda text: post(server, one(text)), texts))
    assert {reply.status_code for reply in replies} == {200}
    digits = [reply.json()["predictions"][0]["digit"] for reply in replies]
    assert digits == [EXPECTED[3]] * len(texts)


def test_an_encoded_body_is_refused_and_the_connection_lives_on(server):
    with requests.Session() as session:
        send = partial(session.post, f"{server.url}/predict", timeout=60)
        refused = send(gzip.compress(one(PNG)), headers=JSON | {"Content-Encoding": "gzip"})
        assert refused.status_code == 415
        assert refused.headers["Accept-Encoding"] == "identity"
        assert refused.json()["detail"].startswith("Content-Encoding 'gzip' cannot be read; send")
        assert send(one(PNG), headers=JSON | {"Content-Encoding": "Identity"}).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/info", "/stats"])
def test_head_is_answered_with_200_and_no_body(server, path):
    reply = requests.head(server.url + path, timeout=5)
    assert (reply.status_code, reply.content) == (200, b"")


def test_a_body_that_is_not_declared_as_json_is_refused(server):
    reply = post(server, one(PNG), {"Content-Type": "text/plain"})
    assert reply.status_code == 422
    assert "Content-Type" in reply.json()["detail"]


def test_info_names_the_variant_and_the_run(server):
    info = requests.get(f"{server.url}/info", timeout=5).json()["model"]
    assert info["run_id"] == server.run_id
    assert (info["accelerator"], info["api_servers"]) == ("cpu", 1)


def test_the_server_listens_on_this_machine_only(server):
    tree = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    port = int(server.url.rpartition(":")[2])
    connections = [each for process in tree for each in process.net_connections("tcp")]
    listening = [each.laddr for each in connections if each.status == psutil.CONN_LISTEN]
    assert any(address.port == port for address in listening)
    assert {address.ip for address in listening} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("name", "dtype"), [("half_precision", torch.bfloat16), ("batching_workers", torch.float32)]
)
def test_half_precision_computes_in_bfloat16_and_what_it_builds_on_does_not(name, dtype):
    api, seen = api_class(f"mnist_model_benchmarking.server_{name}")(), []
    api.setup("cpu")
    api.model[0].register_forward_hook(lambda _, inputs, output: seen.extend((*inputs, output)))
    api.probabilities(torch.zeros(2, 784))
    assert [tensor.dtype for tensor in seen] == [dtype, dtype]
    assert {weights.dtype for weights in api.model.parameters()} == {dtype}


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
        ),
    ],
)
def test_a_staged_forward_pass_tells_every_batch_what_the_model_does(device):
    """One after the other, in buckets that are part full of earlier batches, and in parts."""
    api = api_class("mnist_model_benchmarking.server_low_memory")()
    api.setup("cpu")
    staged = StagedForward(load_model(device), device, torch.float32)
    sizes = [1, 64, 2, 8, 1, 65, 9, 200]
    batches = [torch.rand(size, 784) for size in sizes]
    told = [staged(batch) for batch in batches]  # kept: a later batch must not write to it
    for batch, each in zip(batches, told, strict=True):
        torch.testing.assert_close(each, api.probabilities(batch), rtol=1e-4, atol=1e-5)
    if device == "cuda":
        before = torch.cuda.memory_reserved()
        for batch in batches:
            staged(batch)
        assert torch.cuda.memory_reserved() == before


def test_the_decode_pool_decodes_in_several_threads(monkeypatch):
    api, threads = server_parallel_decoding.ParallelDecodingAPI(max_batch_size=64), set()
    api.setup("cpu")
    base = server_parallel_decoding.BatchingWorkersAPI
    original = base.decode_request

    def noted(self, request):
        threads.add(threading.get_ident())
        time.sleep(0.01)
        return original(self, request)

    monkeypatch.setattr(base, "decode_request", noted)
    futures = [api.decode_request({"image": base64_text(content)}) for content in FILES[:16]]
    outputs = api.predict(api.batch(futures))
    assert len(threads) == server_parallel_decoding.DECODE_THREADS
    assert threading.get_ident() not in threads
    assert [int(output.argmax()) for output in outputs] == EXPECTED[:16]


@pytest.mark.parametrize("server", one_by_one("mnist", "adaptive_batching"), indirect=True)
def test_adaptive_batching_uses_no_cpu_while_idle(server):
    """LitServe's own loop wakes a hundred times a second with a window, and never sleeps without.

    The HTTP process of any server wakes now and then: the worker and the queue count.
    """
    predicted(server, 0)
    time.sleep(0.5)
    tree = ProcessTree(server.pid, server.stats())
    before = tree.cpu_s()
    time.sleep(2)
    after = tree.cpu_s()
    assert after["workers"] - before["workers"] < 0.002
    assert after["queue"] - before["queue"] < 0.02
    assert predicted(server, 0) == EXPECTED[0]  # it sleeps, and is not dead


@pytest.mark.parametrize("server", one_by_one("mnist", "low_memory"), indirect=True)
def test_workers_of_the_low_memory_server_hold_a_third_less_than_what_it_builds_on_at_most(server):
    def private_bytes(server) -> int:
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda index: predicted(server, index % len(FILES)), range(200)))
        workers = ProcessTree(server.pid, server.stats()).memory()["workers"]
        assert attached_server(server.url).pid == server.pid  # also where they are grandchildren
        assert workers.processes == 4
        return workers.private_bytes

    with running_server(*mnist_server("batching_workers")) as built_on:
        assert private_bytes(server) < 0.7 * private_bytes(built_on)


@pytest.mark.parametrize(
    ("variant", "number"),
    [
        ("batching", signal.SIGINT),
        ("batching", signal.SIGTERM),
        ("batching", signal.SIGKILL),
        ("low_memory", signal.SIGTERM),
        ("low_memory", signal.SIGKILL),
        ("adaptive_batching", signal.SIGTERM),
    ],
)
def test_a_stopped_server_leaves_no_process_and_a_silent_port(variant, number, tmp_path):
    """Started by path, from another folder; SIGKILL reaches the parent only, and its children end
    themselves.
    """
    port = free_port()
    script = ROOT / "mnist_model_benchmarking" / f"server_{variant}.py"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, script, "--port", str(port), "--accelerator", "cpu"],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while not healthy(url):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    tree = psutil.Process(process.pid).children(recursive=True)
    assert len(tree) >= 3
    os.kill(process.pid, number)
    process.wait(10)
    _, alive = psutil.wait_procs(tree, timeout=10)
    assert not alive
    assert not healthy(url)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]  # no client.py


def test_a_taken_port_is_refused_with_one_sentence():
    script = ROOT / "mnist_model_benchmarking" / "server_baseline.py"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, script, "--port", str(port)]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"cannot listen on 127.0.0.1:{port}")
    assert refused.stderr.count("\n") == 1


def test_an_accelerator_that_is_not_there_is_refused_with_one_sentence():
    script = ROOT / "mnist_model_benchmarking" / "server_baseline.py"
    command = [sys.executable, script, "--port", str(free_port()), "--accelerator", NOWHERE]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"--accelerator {NOWHERE}: ")
    assert refused.stderr.count("\n") == 1


def test_the_client_prints_a_prediction(server):
    client = ROOT / "mnist_model_benchmarking" / "client.py"
    command = [sys.executable, client, "--digit", "4", "--url", server.url]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.stdout.startswith("digit 4 with probability 0."), shown.stderr


def test_jpeg_and_png_of_any_size_are_recognised(server):
    with Image.open(io.BytesIO(FILES[11])) as image:
        large = image.resize((300, 300))
    for kind in ("PNG", "JPEG"):
        reply = post(server, one(base64_text(image_file(large, kind))))
        assert reply.json()["predictions"][0]["digit"] == LABELS[11]
