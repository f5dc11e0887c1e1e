"""A server that is not ours, end to end: measured as it is and varied, judged, left as it was."""

import http.server
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.own_server.advice import comparisons
from harness.results.schema import Results
from harness.suite import read_results

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(__file__).parent / "own_scripts"
REQUESTS = "".join(f'{{"n": {number}}}\n' for number in range(10))


def measured(folder: Path, *words: str) -> tuple[Results, str]:
    """Run the command in that folder; returns its results and what it printed."""
    (folder / "requests.jsonl").write_text(REQUESTS)
    command = [sys.executable, "-m", "harness", *words, "--force", "--epochs", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return read_results(folder / "benchmark_results" / "benchmark_results.json"), done.stdout


def script_in(folder: Path, name: str) -> Path:
    """A copy of one of the scripts."""
    script = folder / "my_server.py"
    script.write_bytes((SCRIPTS / name).read_bytes())
    return script


def percents(results: Results) -> dict[str, tuple[str, float]]:
    """By variant, what is said of it under the only load, and by how much it differs."""
    (load,) = results.loads
    known = comparisons(results, load)
    return {name: (each.verdict, each.percent) for name, each in known.items()}


def test_a_script_is_measured_as_it_is_and_varied_and_is_the_same_afterwards(tmp_path):
    script = script_in(tmp_path, "sleeping.py")
    before = script.read_bytes()
    words = "my_server.py --body requests.jsonl --concurrency 8 --minutes 0.1"
    results, said = measured(tmp_path, *words.split(), "--vary", "workers_per_device=1,2")
    assert script.read_bytes() == before
    kept = {"my_server.py", "requests.jsonl", "benchmark_results"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert list(results.variants) == ["as_written", "workers_per_device=2"]
    assert percents(results)["workers_per_device=2"][0] == "faster"
    for variant in results.variants.values():
        (row,) = variant.rows
        assert row.requests["ok"] == row.requests["sent"] > 10
        assert row.breakdown_ms["predict"] > 19
        assert row.worker_memory_bytes > 1e6
        assert variant.no_op_server.requests_per_second > row.requests_per_second.mean
    assert results.variants["workers_per_device=2"].server["workers_per_device"] == 2
    lines = said.rstrip().splitlines()
    assert lines[-3:] == [
        "to put into the script, for 8 at a time:",
        "    LitServer(api, workers_per_device=2)",
        "    server.run(num_api_servers=1)",
    ]
    assert any(line.startswith("for 8 at a time: workers_per_device=2, faster") for line in lines)
    assert any("the same twice for 10 of 10 requests" in note for note in results.notes)


@pytest.mark.parametrize("word", ["--vary=nonsense=1", "--path=/nowhere"])
def test_what_the_script_does_not_have_is_refused_in_a_sentence(tmp_path, word):
    script_in(tmp_path, "sleeping.py")
    (tmp_path / "requests.jsonl").write_text(REQUESTS)
    command = [sys.executable, "-m", "harness", "my_server.py", "--body", "requests.jsonl", word]
    done = subprocess.run(
        [*command, "--force"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert word.partition("=")[2].partition("=")[0] in done.stderr


class Plain(http.server.BaseHTTPRequestHandler):
    """A server that is no LitServe: it answers what it was sent, and knows one path only."""

    protocol_version = "HTTP/1.1"
    seen: list = []  # noqa: RUF012 shared on purpose

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.path, self.headers["Content-Type"], self.headers["X-Secret"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def plain_server():
    """Run it on a thread; yields its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Plain)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_server_that_is_no_litserve_is_measured_where_it_runs_and_no_secret_is_kept(tmp_path):
    (tmp_path / "sound.wav").write_bytes(b"\x00\x01" * 50)
    with plain_server() as url:
        words = (
            f"--url {url} --body sound.wav --content-type audio/wav --path /a?b=c --minutes 0.05"
        )
        results, said = measured(
            tmp_path, *words.split(), "--concurrency", "2", "--header", "X-Secret: hush"
        )
    assert set(Plain.seen) == {("/a?b=c", "audio/wav", "hush")}
    (row,) = results.variants["server"].rows
    assert row.requests["ok"] == row.requests["sent"] > 10
    assert row.breakdown_ms is None
    assert any("taken for alive because it answers" in note for note in results.notes)
    kept = (tmp_path / "benchmark_results" / "benchmark_results.json").read_text()
    assert "hush" not in kept + said
    assert json.loads(kept)["settings"]["header"] == ["X-Secret"]


def test_a_script_that_streams_has_times_of_its_first_event_and_between_events(tmp_path):
    script_in(tmp_path, "streaming_words.py")
    words = "my_server.py --body requests.jsonl --concurrency 2 --minutes 0.05"
    results, said = measured(tmp_path, *words.split())
    (row,) = results.variants["as_written"].rows
    assert row.requests["ok"] == row.requests["sent"] > 10
    assert 4 < row.own.event_gap_ms["p50"] < 50
    assert 4 < row.own.first_event_ms["mean"] < row.latency_ms["mean"]
    assert "first event" in " ".join(said.split())
    assert "no verdicts" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "vary", "expected"),
    [
        (
            "sleeping.py",
            "workers_per_device=1,2,4",
            {"workers_per_device=2": ("faster", 100), "workers_per_device=4": ("faster", 300)},
        ),
        (
            "locked.py",
            "workers_per_device=1,2,4",
            {"workers_per_device=2": ("same", 0), "workers_per_device=4": ("same", 0)},
        ),
        ("batch_sleeping.py", "max_batch_size=1,8", {"max_batch_size=8": ("faster", None)}),
    ],
)
def test_verdicts_are_those_that_the_script_was_written_to_have(tmp_path, script, vary, expected):
    script_in(tmp_path, script)
    words = f"my_server.py --body requests.jsonl --concurrency 8 --minutes 2 --vary {vary}"
    results, _ = measured(tmp_path, *words.split())
    verdicts = percents(results)
    assert verdicts.keys() == expected.keys()
    for name, (word, percent) in expected.items():
        assert verdicts[name][0] == word, (name, verdicts[name])
        if percent is not None:
            factor = 1 + percent / 100
            assert 1 + verdicts[name][1] / 100 == pytest.approx(factor, rel=0.1)
