"""The repository keeps its own promises: budgets, purity of the core, words, layers that import nothing heavy.

Each test lists every offender with its place, so that one run says all there is to mend.
"""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "holdfast"
CORE = SRC / "core"

FILE_LINES = 400
JUDGE_LINES = 570  # of core/verify.py, which must stay one file: it is run alone, by people who do not trust the rest
WARDEN_LINES = 430  # of gateway/warden.py, which must stay one file too: it is run alone, without the rest
FUNCTION_LINES = 50
SEAM_METHODS = 6

# What `core/` may import: no I/O, clock, randomness, logging or async can be reached through any of these.
PURE = set(
    "__future__ abc array base64 binascii bisect collections collections.abc dataclasses decimal enum functools "
    "hashlib hmac itertools json json.encoder math operator re string struct types typing".split()
)
IMPURE_CALLS = {"open", "print", "input", "eval", "exec", "compile", "breakpoint", "__import__", "id", "hash"}
# Whatever reads bytes with these can be made to run them.
UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml", "code", "codeop"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}

# One word per thing: these have another one, or are the name of nothing (docs and errors keep to it too).
UNWANTED = set(
    "session workflow thread action activity event commit rollback snapshot permission manager helper util utils "
    "handler service".split()
)
# A function may run something in a thread, or be told which services an agent has started; nothing of Holdfast is one.
OF_THE_MACHINE = {"thread", "service", "services"}

HEAVY = set(
    "aiohttp apsw boto3 cedarpy click cryptography keyring moto openai psycopg pydantic rich typer zstandard".split()
)
EXTRAS = ("gateway", "aws", "keyring", "postgres", "s3", "sql")  # what is imported only where it is used

SQL = re.compile(
    r"\b(SELECT\b|INSERT\s|UPDATE\s+\S+\s+SET\b|DELETE\s+FROM\b|REPLACE\s+INTO\b|CREATE\s+(TABLE|INDEX|TRIGGER|VIEW)\b"
    r"|DROP\s+(TABLE|INDEX|TRIGGER|VIEW)\b|ALTER\s+TABLE\b|PRAGMA\s|ATTACH\s|VACUUM\b|SAVEPOINT\s|RELEASE\s)"
)


def sources(under: Path = SRC) -> list[Path]:
    found = sorted(under.rglob("*.py"))
    assert found, f"no sources under {under}"
    return found


@cache
def tree(path: Path) -> ast.Module:
    """What importing the file makes of it; in the core, `if __name__ == "__main__"` begins a program of its own."""
    module = ast.parse(path.read_bytes(), filename=str(path))
    if path.is_relative_to(CORE):
        program = ast.dump(ast.parse('__name__ == "__main__"', mode="eval").body)
        module.body = [
            node for node in module.body if not (isinstance(node, ast.If) and ast.dump(node.test) == program)
        ]
    return module


def place(path: Path, node: ast.AST | None = None) -> str:
    line = f":{node.lineno}" if node is not None and hasattr(node, "lineno") else ""
    return f"{path.relative_to(ROOT)}{line}"


def tracked() -> list[Path]:
    """The files of the repository: those that git knows, or would be asked to add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout, or git is not installed: nothing says which files belong to the repository")
    names = listed.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def texts() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def imports(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Every module that a file imports, wherever the statement stands."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place(path, node)}: a relative import"
            assert node.module is not None
            yield node, node.module


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Every call of a plain name."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node, node.func.id


def test_a_file_is_at_most_400_lines() -> None:
    most = {CORE / "verify.py": JUDGE_LINES, SRC / "gateway" / "warden.py": WARDEN_LINES}
    lines = {path: len(path.read_bytes().splitlines()) for path in sources()}
    assert not {place(path): n for path, n in lines.items() if n > most.get(path, FILE_LINES)}


def test_a_function_is_at_most_50_lines() -> None:
    long: dict[str, int] = {}
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long[f"{place(path, node)} {node.name}"] = lines
    assert not long


def _is_seam(base: str) -> bool:
    """Whether a base is typing's: those of asyncio read the network."""
    return "Protocol" in base and not base.startswith("asyncio.")


def test_a_seam_has_at_most_six_methods() -> None:
    seams: dict[str, int] = {}
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef) and any(_is_seam(ast.unparse(base)) for base in node.bases):
                methods = [member for member in node.body if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)]
                seams[f"{place(path)} {node.name}"] = len(methods)
    assert "src/holdfast/store/__init__.py Store" in seams
    assert not {name: n for name, n in seams.items() if n > SEAM_METHODS}


def test_the_core_imports_only_itself_and_what_is_pure() -> None:
    impure = [
        f"{place(path, node)} imports {name}"
        for path in sources(CORE)
        for node, name in imports(path)
        if name not in PURE and name != "holdfast.errors" and not name.startswith("holdfast.core")
    ]
    assert not impure


def test_the_core_does_nothing() -> None:
    does = [
        f"{place(path, node)} calls {name}"
        for path in sources(CORE)
        for node, name in calls(path)
        if name in IMPURE_CALLS
    ]
    waits = [
        f"{place(path, node)} is async"
        for path in sources(CORE)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
    ]
    assert not does + waits


def test_the_core_knows_every_type() -> None:
    vague = [
        f"{place(path, node)} says Any"
        for path in sources(CORE)
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Name) and node.id == "Any")
        or (isinstance(node, ast.Attribute) and node.attr == "Any")
        or (isinstance(node, ast.alias) and node.name == "Any")
    ]
    ignored = [
        f"{place(path)}:{number} ignores the type checker"
        for path in sources(CORE)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(r"#\s*(type|pyright):\s*ignore", line)
    ]
    assert not vague + ignored


def test_each_file_of_the_core_has_its_mirror() -> None:
    names = [path.relative_to(CORE).with_suffix("") for path in sources(CORE) if path.name != "__init__.py"]
    without = [
        str(name) for name in names if not (ROOT / "tests/core" / name.parent / f"test_{name.name}.py").is_file()
    ]
    assert not without


def test_nothing_reads_bytes_that_could_run() -> None:
    unsafe = [
        f"{place(path, node)} {name}"
        for path in sources()
        for node, name in imports(path)
        if name.partition(".")[0] in UNSAFE_MODULES
    ]
    unsafe += [
        f"{place(path, node)} {name}()" for path in sources() for node, name in calls(path) if name in UNSAFE_CALLS
    ]
    assert not unsafe


def test_every_statement_of_sql_is_written_out() -> None:
    """No text of SQL is put together from parts: not where it is executed, and nowhere else."""
    made: list[str] = []
    seen = 0
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                if node.func.attr in {"execute", "executemany", "executescript"}:
                    seen += 1
                    if not isinstance(node.args[0], ast.Constant | ast.Name | ast.Attribute | ast.IfExp):
                        made.append(f"{place(path, node)} executes {ast.unparse(node.args[0])}")
                elif node.func.attr in {"format", "join", "replace"} and SQL.search(literal(node)):
                    made.append(f"{place(path, node)} {ast.unparse(node)}")
            elif isinstance(node, ast.JoinedStr | ast.BinOp) and SQL.search(literal(node)):
                made.append(f"{place(path, node)} {ast.unparse(node)}")
    assert seen, "nothing executes SQL: is this test looking in the right place?"
    assert not made


def literal(node: ast.AST) -> str:
    """All literal text inside an expression."""
    parts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return "".join(part for part in parts if isinstance(part, str))


def test_one_word_per_thing() -> None:
    """Public modules, classes, functions and their parameters are named in the words of the design."""
    wrong = [f"{place(path)}: {bad}" for path in sources() for bad in unwanted(path.stem)]
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words = unwanted(node.name) if isinstance(node, ast.ClassDef) else unwanted(node.name) - OF_THE_MACHINE
                wrong += [f"{place(path, node)} {node.name}: {bad}" for bad in words]
            elif isinstance(node, ast.arg):
                wrong += [f"{place(path, node)} {node.arg}: {bad}" for bad in unwanted(node.arg) - OF_THE_MACHINE]
    assert not wrong


def unwanted(name: str) -> set[str]:
    if name.startswith("_"):
        return set()
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")
    return UNWANTED & ({*words, *(word.removesuffix("s") for word in words)})


def test_nothing_is_left_for_later() -> None:
    later = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
    left = [
        f"{place(path)}:{number}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if later.search(line) and path.name != "uv.lock"
    ]
    assert not left


def test_no_file_names_the_machine_it_was_written_on() -> None:
    home = re.compile(r"(?<![\w.~*-])/(?:work|root|home/\w+|Users/\w+)/")
    here = [str(ROOT) + "/", str(Path.home()) + "/"]
    named = [
        f"{place(path)}:{number}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if home.search(line) or any(prefix in line for prefix in here)
    ]
    assert not named


def test_importing_holdfast_is_light() -> None:
    """What only a store, the command line or the demo needs is imported when it is needed."""
    script = "import holdfast, json, sys; print(json.dumps([holdfast.__file__, *sys.modules]))"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    file, *loaded = json.loads(ran.stdout)
    assert file is not None
    assert Path(file).parent == SRC, "not the checkout that is being tested"
    assert not HEAVY & set(loaded)


def test_dependencies_are_declared_and_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    of_module = packages_distributions()

    def distributions(paths: list[Path]) -> set[str]:
        names = {name.partition(".")[0] for path in paths for _, name in imports(path)}
        foreign = names - sys.stdlib_module_names - {"holdfast"}
        assert foreign <= of_module.keys(), f"not installed: {foreign - of_module.keys()}"
        return {of_module[name][0].lower().replace("pydantic_core", "pydantic") for name in foreign}

    def declared(lines: list[str]) -> set[str]:
        return {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in lines}

    demo = sources(SRC / "demo")
    through_aiohttp = {"multidict"}  # what its interface speaks in
    core = declared(project["dependencies"])
    extras = set[str]().union(*(declared(project["optional-dependencies"][name]) for name in EXTRAS))
    used = distributions([path for path in sources() if path not in demo]) - through_aiohttp
    assert core <= used <= core | extras
    through_moto = {"flask", "flask-cors", "werkzeug", "botocore", "requests"}  # what its server and boto3 are made of
    extra = declared(project["optional-dependencies"]["demo"])
    assert distributions(demo) - core - through_moto == extra - through_moto


def test_the_changelog_tells_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
