"""Run anybody's LitServe script, unmodified and instrumented, as a server of the harness.

    python -m harness.own_server.launcher --port 8000 my_server.py -- its own arguments

The script is not written to, and runs as `python my_server.py` would run it, but for what measuring
must decide: host and port, the number of HTTP processes, and what --set changes.
"""

import argparse
import ast
import importlib.util
import math
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import litserve

from harness.own_server.adopted import adopt, arguments_given
from harness.own_server.settings import (
    SettingError,
    Settings,
    intercept_construction,
    parsed_setting,
)
from harness.process.module_command import ROOT
from harness.serving.serve import add_shared_flags, prepare_to_serve, run_to_its_end
from harness.serving.watch import Watch

REFUSED, FAILED = 2, 1
GUARDS = {"__name__", "current_process", "parent_process"}  # what an `if` asks that spares workers


def end(code: int, sentence: str) -> NoReturn:
    """End this process and its children at once, threads of the script's own included; its log ends
    with the sentence.
    """
    sys.stdout.flush()
    print(sentence, file=sys.stderr, flush=True)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


class ScriptRun:
    """One script, from its first line to its server's end."""

    def __init__(self, options: argparse.Namespace, own_arguments: list[str]) -> None:
        self.options, self.own_arguments = options, own_arguments
        self.script = options.script
        is_file = self.script.endswith(".py") or os.sep in self.script or Path(self.script).exists()
        self.path = Path(self.script) if is_file else None
        self.name = self.path.name if self.path else self.script
        self.variant = self.path.stem if self.path else self.script.rpartition(".")[2]
        self.settings = Settings(dict(options.set))
        if options.accelerator != "auto":
            self.settings.asked.setdefault("accelerator", options.accelerator)
        self.has_run = False

    def hold_litserve(self) -> None:
        """Put our hands around LitServe's classes, wherever the script imports them from."""
        make, run = litserve.LitServer.__init__, litserve.LitServer.run
        script_run = self

        def make_server(server: litserve.LitServer, *arguments: Any, **options: Any) -> None:
            given = arguments_given(make, server, *arguments, **options)
            del given["self"]
            given = script_run.set_up(given)
            make(server, **given)

        def run_server(server: litserve.LitServer, *arguments: Any, **options: Any) -> None:
            given = arguments_given(run, server, *arguments, **options)
            del given["self"]
            script_run.serve(server, given)

        self.run = run
        litserve.LitServer.__init__, litserve.LitServer.run = make_server, run_server
        intercept_construction(self.settings.constructing)

    def set_up(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments with which the script's LitServer is made, settings changed."""
        apis = given.get("lit_api")
        apis = [apis] if isinstance(apis, litserve.LitAPI) else list(apis or [])
        if len(apis) > 1:  # it may be anything that can be iterated over, once
            given["lit_api"] = apis
        for api in apis:
            self.settings.to_api(api)
        self.settings.to_server(given)
        self.settings.refuse_unknown(apis)
        return given

    def serve(self, server: litserve.LitServer, given: dict[str, Any]) -> None:
        """What `LitServer.run` does instead."""
        self.refuse_to_run(sys._getframe(2))
        self.has_run = True
        for name in ("host", "port", "num_api_servers", "generate_client_file"):
            given.pop(name, None)
        self.settings.to_run(given)
        self.options.api_servers = given.pop("num_api_servers", self.options.api_servers)
        self.settings.in_effect.setdefault("num_api_servers", self.options.api_servers)
        adopt(server, self.variant, self.options, self.settings)
        watch = Watch(server, self.options.api_servers, response_timeout_s=math.inf)
        run_to_its_end(self.run_named, server, watch, self.options, **given)

    def run_named(self, server: litserve.LitServer, **settings: Any) -> None:
        """LitServe's own `run`; a model that cannot be set up ends it with the script's name."""
        try:
            self.run(server, **settings)
        except RuntimeError as error:
            if "workers failed to start" not in str(error):
                raise
            end(FAILED, f"{self.name}: setup failed in a worker; its traceback is above")

    def refuse_to_run(self, caller: FrameType) -> None:
        """End with one sentence where no server can be measured."""
        if self.has_run:
            end(REFUSED, f"{self.name} calls run() again: only its first server is measured")
        in_child = multiprocessing.parent_process() is not None
        if in_child or threading.current_thread() is not threading.main_thread():
            where = "a process" if in_child else "a thread"
            end(REFUSED, f"{self.name} calls run() in {where} of its own: that is not supported")
        if self.runs_when_imported(caller):
            end(
                REFUSED,
                f"{self.name} calls run() whenever it is imported, and every worker imports it: "
                'put the call under if __name__ == "__main__":',
            )

    def runs_when_imported(self, frame: FrameType | None) -> bool:
        """Whether the line of the script that is being executed lies under no `if` that only holds
        where it is the main program.

        LitServe's workers import the main program, and could not start if that ran a server: the
        script would wait for them for ever. A package's __main__ they do not import.
        """
        while frame and not (
            frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__"
        ):
            frame = frame.f_back
        if frame is None or self.script.endswith("__main__"):
            return False
        tree = ast.parse(Path(frame.f_code.co_filename).read_bytes())
        guarded = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and GUARDS & set(names_in(node.test))
        ]
        return not any(node.lineno <= frame.f_lineno <= node.end_lineno for node in guarded)

    def run_script(self) -> None:
        """Run the script as the main program."""
        sys.argv = [self.script, *self.own_arguments]
        if self.path:
            sys.path.insert(0, str(self.path.resolve().parent))
            runpy.run_path(str(self.path.absolute()), run_name="__main__")
        else:
            sys.path.insert(0, str(Path.cwd()))
            runpy.run_module(self.script, run_name="__main__", alter_sys=True)

    def refuse_missing(self) -> None:
        """End with one sentence if there is no such script."""
        if self.path and not self.path.is_file():
            kind = "is a folder" if self.path.is_dir() else "does not exist"
            end(REFUSED, f"{self.script} {kind}: name a Python file, or a module")
        if not self.path:
            sys.path.insert(0, str(Path.cwd()))
            try:
                known = importlib.util.find_spec(self.script)
            except (ImportError, ValueError):
                known = None
            finally:
                del sys.path[0]
            if not known:
                end(REFUSED, f"there is neither a file nor a module {self.script}")

    def to_its_end(self) -> None:
        """Run the script; whatever it ends with, the last line of its log says so."""
        self.refuse_missing()
        self.hold_litserve()
        try:
            self.run_script()
        except SettingError as error:
            end(REFUSED, str(error))
        except KeyboardInterrupt:
            end(128 + signal.SIGINT, f"{self.name} was stopped before it served")
        except SystemExit as ending:
            if self.has_run:
                raise
            self.explain_exit(ending.code)
        except BaseException as error:
            traceback.print_exc()
            reason = (str(error).splitlines() or [""])[0]
            end(FAILED, f"{self.name} failed: {type(error).__name__}: {reason}")
        if not self.has_run:
            end(FAILED, f"{self.name} ended without calling LitServer.run()")

    def explain_exit(self, code: Any) -> NoReturn:
        """End for a script that has called sys.exit before it served."""
        if isinstance(code, str):
            end(FAILED, f"{self.name} ended before it called LitServer.run(): {code}")
        code = code or 0
        end(code or FAILED, f"{self.name} ended with {code} before it called LitServer.run()")


def names_in(test: ast.expr) -> list[str]:
    """The names and attributes that an expression reads."""
    named = [node.id for node in ast.walk(test) if isinstance(node, ast.Name)]
    return named + [node.attr for node in ast.walk(test) if isinstance(node, ast.Attribute)]


def argument_parser() -> argparse.ArgumentParser:
    """The flags that all servers share, and what to run."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.own_server.launcher", description=__doc__.partition("\n")[0]
    )
    add_shared_flags(parser)
    parser.add_argument(
        "--set",
        type=parsed_setting,
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a setting of LitServer, run() or the API; /info tells its value, also without =VALUE",
    )
    parser.add_argument("script", metavar="SCRIPT", help="a file, or a module's name")
    return parser


def give_back_the_path() -> None:
    """Take the harness out of the script's way: module_environment has put it before everything."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if given[0] == str(ROOT):
        own = given[1:]
        os.environ["PYTHONPATH"] = os.pathsep.join(own)
        if not own:
            del os.environ["PYTHONPATH"]
        kept = [path for path in sys.path if path not in given or path in own]
        sys.path[:] = kept
    sys.path[:] = [path for path in sys.path if path != str(ROOT)] + [str(ROOT)]


def main() -> None:
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    options = argument_parser().parse_args(words[:at])
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    give_back_the_path()
    prepare_to_serve(options)
    ScriptRun(options, words[at + 1 :]).to_its_end()


if __name__ == "__main__":
    main()
