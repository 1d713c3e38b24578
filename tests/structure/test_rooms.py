"""The house's order, read from the imports: each room imports only rooms that stand before it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "exnihilo"
LONGEST = 500  # lines of a file

# Left imports nothing of what is right of it. A name is a folder or a file of src/exnihilo.
ORDER = [
    {"errors", "config", "config_keys", "log", "environment", "surface"},
    {"config_layers"},
    {"world"},
    {"data"},
    {"codec"},
    {"kernels"},
    {"metrics"},
    {"nn"},
    {"model"},
    {"objective"},
    {"optim"},
    {"parallel"},
    {"infer"},
    {"interop"},
    {"eval"},
    {"probe"},
    {"train"},
    {"report"},
    {"recipes"},
    {"measure", "rehearse", "plan", "proof", "sweep", "tokens", "predictions", "doctor", "stages"},
    {"serve"},
    {"quickstart"},
    {"api_models"},
    {"api"},
    {"cli"},
    {"__init__", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
FREE = {"errors", "config", "log"}  # anything may use them, and they import each other only
# Rooms whose tests stand elsewhere: in another room's folder, or with the whole.
TESTED_BY = {
    **dict.fromkeys(("errors", "config_keys", "config_layers", "recipes"), "config"),
    **dict.fromkeys(("environment", "surface", "api", "api_models", "__init__", "__main__"), "cli"),
    **dict.fromkeys(("quickstart", "measure", "rehearse", "plan", "proof", "sweep", "tokens"), "smoke"),
    "predictions": "infer",
    "doctor": "smoke",
    "log": "structure",
    "nn": "model",
}


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    part = path.relative_to(SOURCE).parts[0]
    return part.removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted module inside the package, only for type checking) of every import of our own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            typing_only |= {id(inner) for child in node.body for inner in ast.walk(child)}
    package = ("exnihilo", *path.relative_to(SOURCE).parts[:-1])
    for node in ast.walk(tree):
        quiet = id(node) in typing_only
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "exnihilo":
                    yield node.lineno, alias.name, quiet
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package[: len(package) - node.level + 1], *([node.module] if node.module else [])]
                )
            if base == "exnihilo":
                for alias in node.names:
                    yield node.lineno, f"exnihilo.{alias.name}", quiet
            elif base.startswith("exnihilo."):
                yield node.lineno, base, quiet


def test_every_room_has_a_place() -> None:
    found = {room(path) for path in files()}
    assert found <= set(LEVEL), f"give these rooms a place in ORDER: {sorted(found - set(LEVEL))}"


@pytest.mark.parametrize("name", sorted(LEVEL))
def test_imports_run_downwards(name: str) -> None:
    wrong = []
    for path in files():
        if room(path) != name:
            continue
        for line, module, quiet in imported(path):
            parts = module.split(".")
            other = parts[1] if len(parts) > 1 else "__init__"
            if other == name or quiet:
                continue
            allowed = LEVEL[other] < LEVEL[name] or (LEVEL[other] == LEVEL[name] and name not in FREE)
            if not (allowed or other in FREE and name in FREE):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_verbs_and_rooms_of_one_name_are_never_imported_as_modules() -> None:
    """`import exnihilo.train as t` may give the verb; `from exnihilo.train import run` always gives the
    room's."""
    verbs = {"train", "eval", "report", "recipes", "plan", "quickstart", "doctor"}
    wrong = []
    for path in files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    parts = alias.name.split(".")
                    if parts[0] == "exnihilo" and len(parts) > 1 and parts[1] in verbs:
                        wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} import {alias.name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_short_and_say_what_they_do(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a file opens with what it does"


@pytest.mark.parametrize(
    "path", [p for p in files() if p.name == "__init__.py"], ids=lambda p: room(p) + "/" + p.name
)
def test_package_files_hold_no_logic(path: Path) -> None:
    """Imports, names and the docstring; the package's own file also installs its verbs."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        plain = isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        )
        installs = path.parent == SOURCE and isinstance(node, ast.Expr) and "install" in ast.dump(node)
        assert plain or installs, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_each_room_has_tests() -> None:
    for name in {room(path) for path in files()}:
        folder = ROOT / "tests" / TESTED_BY.get(name, name)
        assert list(folder.glob("test_*.py")), f"{name}: no tests in {folder.relative_to(ROOT)}"


UNSAFE = {
    "eval(": "builtin eval", "exec(": "builtin exec", "os.system": "os.system", "pickle.load": "pickle",
    "torch.load": "torch.load", "yaml.load": "yaml.load",
}  # fmt: skip


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_unsafe_unfinished_or_swallowed(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {name.split(".")[0] for name in names} & {
                "pickle",
                "dill",
                "cloudpickle",
                "marshal",
            }, where
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"exec", "os.system", "torch.load", "yaml.load", "pickle.load", "compile"}, (
                where
            )
            assert called != "eval" or path.name in ("actions.py",), where
            assert not any(k.arg == "shell" and ast.unparse(k.value) == "True" for k in node.keywords), where
        if isinstance(node, ast.Raise) and node.exc is not None:
            assert "NotImplementedError" not in ast.unparse(node.exc), where
        if isinstance(node, ast.ExceptHandler) and (
            node.type is None or ast.unparse(node.type) == "Exception"
        ):
            swallowed = all(isinstance(x, (ast.Pass, ast.Continue)) for x in node.body) or (
                len(node.body) == 1 and isinstance(node.body[0], ast.Return)
            )
            assert not swallowed, f"{where}: an error is swallowed"


WORDS = re.compile(r"\b(TODO|FIXME|XXX)\b")
PLACES = re.compile(r"/(work|tmp/x|root|home/\w+)(/|\b)")


def texts() -> list[Path]:
    kinds = {".py", ".md", ".toml", ".txt", ".html", ".yml", ".yaml", ".sh", ""}
    kept = []
    for folder in ("src", "tests", "docs", "bench", "dev", ".ci"):
        kept += [p for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix in kinds]
    kept += [p for p in ROOT.iterdir() if p.is_file() and p.suffix in kinds and p.name != ".git"]
    return [p for p in sorted(kept) if "__pycache__" not in p.parts and p != Path(__file__)]


def test_no_leftovers_and_no_paths_of_one_machine() -> None:
    wrong = []
    for path in texts():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if WORDS.search(line) or PLACES.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not wrong, "\n".join(wrong)


def test_tests_are_named_and_assert() -> None:
    wrong = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        helpers = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and _asserts(n)}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not _asserts(node):
                called = {
                    ast.unparse(c.func).split(".")[-1] for c in ast.walk(node) if isinstance(c, ast.Call)
                }
                if not called & (
                    helpers | {"assert_close", "assert_allclose", "assert_array_equal", "check", "gradcheck"}
                ):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not wrong, "no assertion in: " + ", ".join(wrong)


def _asserts(node: ast.AST) -> bool:
    return any(
        isinstance(inner, ast.Assert)
        or (isinstance(inner, ast.withitem) and "raises" in ast.dump(inner))
        or (isinstance(inner, ast.Call) and ast.unparse(inner.func).split(".")[-1].startswith("assert"))
        for inner in ast.walk(node)
    )
