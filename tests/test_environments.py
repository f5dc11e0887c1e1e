"""Odd environments: proxies, keys, terminals, limits and folders that a shell hands down."""

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mnist_model_benchmarking.benchmark
from harness.cli import benchmark, parsed
from harness.load import open_loop
from harness.load.connection import wire_format
from harness.load.echo_server import echo_server
from harness.process.alone import alone_on_this_machine
from harness.process.control import plain_http_url
from harness.process.groups import end_group
from harness.process.launch import (
    ServerFailedError,
    attached_server,
    free_port,
    healthy,
    running_server,
)
from harness.process.limits import short_temporary_folder, unsupported
from harness.process.module_command import CACHE, compiler_cache
from harness.results.file import save
from harness.run import plan_of, tolerant
from harness.suite import read_results
from tests.builders import judged_results
from tests.numbers.suite import suite
from tests.scripted import replies, scripted_server
from tests.test_runs import options

ROOT = Path(__file__).parent.parent
STEADY = "tests.numbers.server_steady", "--accelerator", "cpu"
MNIST_CLIENT = ROOT / "mnist_model_benchmarking" / "client.py"
LLM_CLIENT = ROOT / "llm_model_benchmarking" / "client.py"
BENCHMARK_MNIST = ROOT / "mnist_model_benchmarking" / "benchmark.py"
PROXIES = {f"{name}_proxy": "http://127.0.0.1:9" for name in ("http", "https", "all")}
DIGIT = b'{"predictions": [{"digit": 7, "probability": 0.9}]}'
WORD = b'data: {"choices": [{"delta": {"content": "7"}}]}\n\ndata: [DONE]\n\n'


def test_each_server_script_has_a_compiler_cache_of_its_own_where_there_is_any(tmp_path):
    caches = [compiler_cache(module, tmp_path)[CACHE] for module in ("one.server", "one.other")]
    assert len(set(caches)) == 2
    assert all(Path(cache).parent == tmp_path for cache in caches)
    assert compiler_cache("one.server", None) == {}


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    """An HTTP answer with this body."""
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


CLIENTS = [
    ([MNIST_CLIENT, "--digit", "7"], answer(DIGIT), "digit 7 with probability 0.9000\n"),
    ([LLM_CLIENT, "What is 3 + 4?"], answer(WORD), "7\n"),
]


BENCHMARK = """
import sys
from collections.abc import Iterator
from pathlib import Path
from harness.cli import benchmark, benchmark_parser, parsed
from tests.numbers.suite import NumbersSuite, suite
if __name__ == "__main__":
    defaults = {"concurrency": [1], "minutes": 0.05, "quick": {}, "precise_minutes": 1.0}
    options = parsed(benchmark_parser(NumbersSuite, "", Path("metrics"), **defaults))
    sys.exit(benchmark(lambda: suite("steady"), options))
"""


def benchmarked(folder: Path, *flags: object, prefix: str = "", **environment: str):
    """A short benchmark of one variant that has ended, started by a shell; it shares no temporary
    folder, and so no lock, with those that run beside the tests.
    """
    (folder / "run.py").write_text(BENCHMARK)
    arguments = ["--variants", "steady", "--epochs", 1, "--output-dir", folder / "metrics", *flags]
    command = shlex.join(map(str, [sys.executable, folder / "run.py", *arguments]))
    return subprocess.run(
        f"{prefix} exec {command}",
        shell=True,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)} | environment,
    )


@pytest.fixture(autouse=True)
def _in_the_projects_root(monkeypatch):
    """`python -m tests.numbers...` is found from here."""
    monkeypatch.chdir(ROOT)


def ran(*command: object, timeout_s: float = 60, **environment: str):
    """A Python command that has ended, in this environment."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )


def test_proxies_of_the_environment_do_not_stand_before_a_launched_server(monkeypatch):
    for name, proxy in PROXIES.items():
        monkeypatch.setenv(name, proxy)
    with running_server(*STEADY, startup_limit_s=60) as server:
        assert server.info["variant"] == "steady"
        assert server.stats()["workers"]


@pytest.mark.parametrize(("command", "reply", "printed"), CLIENTS)
def test_proxies_of_the_environment_do_not_stand_before_a_clients_server_here(
    command, reply, printed
):
    with scripted_server(replies(reply)) as (url, _):
        asked = ran(*command, "--url", url.removesuffix("/predict"), **PROXIES)
    assert asked.stdout == printed, asked.stderr


def test_a_key_in_the_environment_guards_a_launched_server_and_lets_its_benchmark_in(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("LIT_SERVER_API_KEY", "secret")
    with running_server(*STEADY, startup_limit_s=60) as server:
        load = load_of(server.url, tmp_path)
        assert json.loads(load.stdout)["requests"]["http_error"] == 0, load.stderr
        assert attached_server(server.url).pid == server.pid
        monkeypatch.delenv("LIT_SERVER_API_KEY")
        with pytest.raises(ServerFailedError, match=r"wants a key: set LIT_SERVER_API_KEY"):
            attached_server(server.url)
        load = load_of(server.url, tmp_path)
        assert load.returncode == 1
        assert "wants a key: set LIT_SERVER_API_KEY" in load.stderr
        monkeypatch.setenv("LIT_SERVER_API_KEY", "another")
        with pytest.raises(ServerFailedError, match=r"wants a key: .* holds another"):
            attached_server(server.url)


def load_of(url: str, folder: Path) -> subprocess.CompletedProcess:
    """What the load generator's command says of a server."""
    (folder / "body.json").write_text('{"n": 1}')
    command = ["--body", folder / "body.json", "--duration", "0.3", "--json"]
    return ran("-m", "harness.load", f"{url}/predict", *command)


def test_a_run_sends_the_key_with_every_request(tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_SERVER_API_KEY", "secret")
    plan = plan_of(suite("steady"), options(tmp_path))
    assert plan.job.headers == {"X-API-Key": "secret"}
    assert "secret" not in repr(plan)
    assert b"\r\nX-API-Key: secret\r\n" in wire_format("http://h/", b"{}", plan.job.headers)[0]


@pytest.mark.parametrize("key", ["two\r\nlines: 1", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_before_anything_is_launched(key, monkeypatch):
    monkeypatch.setenv("LIT_SERVER_API_KEY", key)
    with pytest.raises(OSError, match="LIT_SERVER_API_KEY holds a character"):
        attached_server("http://127.0.0.1:9")


@pytest.mark.parametrize(("command", "reply", "printed"), CLIENTS)
def test_the_clients_send_the_key(command, reply, printed):
    with scripted_server(replies(reply)) as (url, heads):
        address = url.removesuffix("/predict")
        asked = ran(*command, "--url", address, LIT_SERVER_API_KEY="secret")
    assert asked.stdout == printed, asked.stderr
    assert b"X-API-Key: secret" in heads[0]


@pytest.mark.parametrize(("command", "reply", "printed"), CLIENTS)
def test_a_url_without_a_scheme_is_http(command, reply, printed, tmp_path):
    with scripted_server(replies(reply)) as (url, _):
        address = url.removesuffix("/predict").removeprefix("http://")
        assert ran(*command, "--url", address).stdout == printed
        assert json.loads(load_of(address, tmp_path).stdout)["requests"]["ok"] > 0
    assert plain_http_url("localhost:8100/") == "http://localhost:8100/"
    assert plain_http_url("[::1]:8100/predict?a=b") == "http://[::1]:8100/predict?a=b"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://127.0.0.1:8100", "https:// is not spoken"),
        ("ftp://127.0.0.1", "ftp:// is not spoken"),
        ("http://:8100", "names no host and port"),
        ("localhost:99999", "names no host and port"),
        ("localhost:port", "names no host and port"),
    ],
)
def test_a_url_that_cannot_be_measured_is_refused_in_a_sentence(url, reason, tmp_path):
    parser = mnist_model_benchmarking.benchmark.parser()
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as said:
        parsed(parser, ["--url", url])
    assert reason in said.getvalue()
    load = load_of(url, tmp_path)
    assert (load.returncode, load.stdout) == (2, "")
    assert reason in load.stderr


def test_pictures_are_drawn_whatever_backend_a_notebook_hands_down(tmp_path):
    save(judged_results({"steady": 100.0, "quick": 140.0}, control="steady"), tmp_path / "r.json")
    backend = "module://matplotlib_inline.backend_inline"
    drawn = ran("-m", "harness.charts", tmp_path / "r.json", MPLBACKEND=backend)
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "throughput" / "requests_per_second.png").stat().st_size > 10_000


def test_a_terminal_that_knows_ascii_only_costs_signs_and_nothing_else(tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = benchmarked(tmp_path, PYTHONIOENCODING="ascii", **ascii_only)
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    assert "95 % intervals" in run.stdout
    assert run.stdout.isascii()
    assert (tmp_path / "metrics" / "benchmark_results.json").exists()
    assert len(list((tmp_path / "metrics").rglob("*.png"))) > 3


@pytest.mark.parametrize(
    "command", [["-m", "harness.readme", "--check"], [BENCHMARK_MNIST, "--help"]]
)
def test_the_commands_speak_to_a_terminal_that_knows_ascii_only(command):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    said = ran(*command, PYTHONIOENCODING="ascii", **ascii_only)
    assert said.returncode == 0, said.stderr


def test_a_temporary_folder_with_a_long_path_does_not_keep_a_server_down(tmp_path, monkeypatch):
    folder = tmp_path / ("x" * (120 - len(str(tmp_path))))
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with running_server(*STEADY, startup_limit_s=60) as server:
        assert server.stats()["workers"]


def test_a_server_that_is_started_by_hand_bears_a_long_temporary_folder(tmp_path, monkeypatch):
    folder = tmp_path / ("x" * (120 - len(str(tmp_path))))
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    port = free_port()
    command = [sys.executable, "-m", *STEADY, "--port", str(port)]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not healthy(f"http://127.0.0.1:{port}"):
            assert time.monotonic() < deadline
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
    finally:
        end_group(process.pid)
        process.wait()


def test_a_system_that_cannot_freeze_processes_is_named_at_the_start(tmp_path, monkeypatch, capsys):
    assert unsupported("Linux") is None
    assert unsupported("Darwin", Path("/nothing")) is None
    assert "/proc is not mounted" in unsupported("Linux", tmp_path)
    monkeypatch.setattr("harness.cli.unsupported", lambda: unsupported("Windows"))
    assert benchmark(lambda: pytest.fail("nothing is loaded"), options(tmp_path)) == 2
    assert capsys.readouterr().err.startswith("Windows cannot freeze a server's processes: run")


def test_no_folder_with_a_short_path_is_one_sentence(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/" + "x" * 120)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(OSError, match="set TMPDIR to one of 55 bytes"):
        short_temporary_folder(below="/server-12345678")


def loaded(prefix: str, url: str, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    """The load generator's command, started by a shell that has done `prefix`."""
    (folder / "body.json").write_text('{"n": 1}')
    command = [sys.executable, "-m", "harness.load", url, "--body", folder / "body.json", "--json"]
    return subprocess.run(
        f"{prefix} exec {shlex.join(map(str, [*command, *flags]))}",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


MANY = "--concurrency", "300", "--duration", "0.5"


def test_a_soft_limit_on_open_files_is_raised_for_client_and_server(tmp_path):
    with echo_server(b"{}") as url:
        load = loaded("ulimit -Sn 256;", url, tmp_path, *MANY)
    requests = json.loads(load.stdout)["requests"]
    assert requests["sent"] == requests["ok"] > 300
    launching = "import resource; from harness.process.launch import running_server as up\n"
    launching += f"with up(*{STEADY}) as server: print(resource.prlimit(server.pid, 7)[0])"
    command = shlex.join([sys.executable, "-c", launching])
    said = subprocess.run(f"ulimit -Sn 256; {command}", shell=True, capture_output=True, text=True)
    assert int(said.stdout) > 300, said.stderr


def test_too_few_open_files_are_named_before_anything_is_measured(tmp_path):
    reason = "concurrency 300 needs 364 open files, but only 256 are allowed"
    load = loaded("ulimit -n 256;", "127.0.0.1:9", tmp_path, *MANY)
    assert (load.returncode, load.stdout) == (2, "")
    assert reason in load.stderr
    run = benchmarked(tmp_path, "--concurrency", "8,300", prefix="ulimit -n 256;")
    assert (run.returncode, run.stdout) == (2, "")
    assert reason in run.stderr


def test_an_open_loop_opens_no_more_connections_than_files_are_allowed(tmp_path):
    with scripted_server(replies(delay_s=0.2)) as (url, _):
        flags = "--rate", "500", "--duration", "0.5", "--warmup", "0"
        load = loaded("ulimit -n 128;", url, tmp_path, *flags)
    requests = json.loads(load.stdout)["requests"]
    assert requests["sent"] == requests["ok"] > 100


@pytest.fixture
def second_checkout(tmp_path) -> Path:
    """Another copy of the project, whose server of one variant says that it is another's."""
    other = tmp_path / "other"
    leave_out = shutil.ignore_patterns(".git", "metrics", "__pycache__", "data", ".*")
    shutil.copytree(ROOT, other, ignore=leave_out)
    server = other / "tests" / "numbers" / "server_steady.py"
    server.write_text('raise SystemExit("the other checkout\'s server")')
    return other


@pytest.mark.parametrize(
    "script",
    [
        "mnist_model_benchmarking/benchmark.py",
        "llm_model_benchmarking/client.py",
        "mnist_model_benchmarking/server_baseline.py",
    ],
)
def test_a_script_never_runs_the_code_of_another_checkout(script, second_checkout):
    run = ran(second_checkout / script, "--help")  # PYTHONPATH leads here, as an install would
    assert (run.returncode, run.stdout) == (1, "")
    assert f"{second_checkout}, but the code that is installed here is of {ROOT}" in run.stderr
    assert len(run.stderr.splitlines()) == 1
    own = ran(second_checkout / script, "--help", PYTHONPATH=str(second_checkout))
    assert own.returncode == 0, own.stderr


def test_servers_are_of_the_benchmarks_checkout_wherever_it_is_started(
    second_checkout, monkeypatch
):
    monkeypatch.chdir(second_checkout)
    monkeypatch.setenv("PYTHONPATH", str(second_checkout))
    with running_server(*STEADY, startup_limit_s=60) as server:
        assert server.info["variant"] == "steady"


def test_a_file_of_the_working_directory_does_not_stand_for_one_of_pythons(tmp_path, monkeypatch):
    (tmp_path / "http.py").write_text("raise SystemExit('a file of the working directory')")
    monkeypatch.chdir(tmp_path)
    with running_server(*STEADY, startup_limit_s=60) as server:
        assert server.info["variant"] == "steady"


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 5 MB."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> None:
    """Leave no room for another byte."""
    with (folder / "full").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)) == 4096:
            pass


def test_a_full_disk_is_noticed_before_measuring(small_disk, tmp_path):
    fill(small_disk)
    run = benchmarked(tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert f"cannot write to {small_disk}: No space left on device" in run.stderr


def test_a_disk_that_fills_up_meanwhile_stops_neither_measuring_nor_printing(small_disk, tmp_path):
    filled = f"(until [ -e {small_disk}/benchmark_results.json ]; do sleep 0.1; done; "
    filled += f"cat /dev/zero > {small_disk}/full) 2> /dev/null & "
    run = benchmarked(tmp_path, prefix=filled)
    assert run.returncode == 1, run.stderr
    reason = f"cannot save {small_disk}/benchmark_results.json: No space left on device"
    assert reason in " ".join(run.stdout.split())
    assert " ".join(run.stdout.split()).count("measuring goes on") == 1
    assert "95 % intervals" in run.stdout
    assert "Traceback" not in run.stderr
    assert read_results(small_disk / "benchmark_results.json").variants  # the last that fitted


def test_saving_is_tried_again_and_a_second_failure_is_said_anew():
    outcomes, said = iter([OSError("full"), OSError("full"), None, OSError("full")]), []

    def save_results() -> None:
        if outcome := next(outcomes):
            raise outcome

    attempt = tolerant(save_results, lambda name, reason: said.append((name, reason)))
    for expected in (1, 1, 1, 2):
        attempt()
        assert len(said) == expected


HOLDER = """
import sys
from harness.process.alone import alone_on_this_machine
with alone_on_this_machine():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_benchmark(folder: Path) -> Iterator[subprocess.Popen]:
    """A process that holds the lock in this temporary folder."""
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_benchmark_on_the_machine_stops_unless_it_is_forced(tmp_path):
    with another_benchmark(tmp_path):
        run = benchmarked(tmp_path)
        assert (run.returncode, run.stdout) == (2, "")
        assert "another benchmark runs on this machine" in run.stderr
        assert not (tmp_path / "metrics" / "benchmark_results.json").exists()
        assert benchmarked(tmp_path, "--force", "--minutes", 0.01).returncode == 0


def test_a_killed_benchmark_keeps_no_other_out(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with another_benchmark(tmp_path) as process:
        with pytest.raises(OSError, match="another benchmark"), alone_on_this_machine():
            pytest.fail("two at once")
        process.kill()
        process.wait()
        for _ in range(2):
            with alone_on_this_machine():
                pass


def test_a_rate_beyond_all_reach_ends_in_time_and_says_so(tmp_path):
    began = time.monotonic()
    with scripted_server(replies(delay_s=0.05)) as (url, _):
        load = loaded("ulimit -v 4000000;", url, tmp_path, "--rate", "1000000", "--duration", "2")
    assert time.monotonic() - began < 30
    assert load.returncode == 1, load.stderr
    assert "the offered rate was not reached" in load.stderr
    assert json.loads(load.stdout)["requests"]["sent"] <= 2 * open_loop.MOST_DUE


def test_a_rate_that_is_reached_is_not_doubted(tmp_path):
    with scripted_server(replies()) as (url, _):
        load = loaded("", url, tmp_path, "--rate", "200", "--duration", "1")
    assert (load.returncode, load.stderr) == (0, "")


def test_a_rate_that_no_server_carries_does_not_end_a_run(tmp_path):
    run = benchmarked(tmp_path, "--rate", 1000000)
    assert run.returncode in (0, 1), run.stderr
    assert "Traceback" not in run.stderr
    assert "95 % intervals" in run.stdout
