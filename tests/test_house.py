"""The harness's rooms: imports run one way, without a circle, and no folder's domain leaks in."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent.parent / "harness"
FILES = sorted(HARNESS.rglob("*.py"))
MAY_IMPORT = {  # besides itself; a file that lies in no room may import them all
    "process": set(),
    "load": {"process"},
    "serving": {"process"},
    "measure": {"process", "load"},
    "results": {"load", "measure"},
    "judge": {"measure", "results"},
    "show": {"results", "judge"},
    "suite": {"process", "load", "measure", "results", "show"},
    "own_server": {
        "process",
        "load",
        "serving",
        "measure",
        "results",
        "judge",
        "show",
        "suite",
        "run",
    },
}
DOMAIN = re.compile(r"(?<![a-z])(image|digit|prompt|token)s?(?![a-z])", re.IGNORECASE)


def module_of(path: Path) -> str:
    """The importable name of a file."""
    parts = path.relative_to(HARNESS.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """The harness's modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & {module_of(each) for each in FILES}


def room_of(module: str) -> str:
    """The folder or, for what lies in none, the file."""
    return module.split(".")[1] if "." in module else ""


def broken_rules(files: list[Path]) -> list[str]:
    """Every import of one room by another that may not."""
    return [
        f"{module_of(path)} imports {imported}: {room_of(module_of(path))} may not import {other}"
        for path in files
        for imported in sorted(imports_of(path))
        if (other := room_of(imported)) != (room := room_of(module_of(path)))
        and other not in MAY_IMPORT.get(room, {other})
    ]


def test_imports_run_one_way_between_the_rooms():
    assert broken_rules(FILES) == []


def test_imports_run_without_a_circle():
    graph = {module_of(path): imports_of(path) - {module_of(path)} for path in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_every_file_says_first_what_it_is():
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_the_harness_knows_no_word_of_what_is_served(path):
    """Identifiers are read word by word: snake_case and CamelCase."""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        words = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", line)
        assert not DOMAIN.search(words), f"{path}:{number}: {line.strip()}"


def test_an_import_that_runs_upwards_is_named_with_the_rule_it_breaks(monkeypatch):
    bad = HARNESS / "load" / "bad.py"
    monkeypatch.setattr(Path, "read_text", lambda _: "from harness.judge import verdicts")
    rule = "harness.load.bad imports harness.judge.verdicts: load may not import judge"
    assert rule in broken_rules([bad])
