"""Layers of a configuration: defaults < recipe < overlay.toml < ``key.path=value``; and its TOML text.

::

    config, origins = load("gpt", ["model.depth=6", "data=books/", "minutes=10"], overlay=Path("small.toml"))
    origins["model.depth"]             # 'command line'
    text = dump(config, origins)       # TOML; each line says where its value came from
    load_toml(path) == config          # the text loads back to the same configuration

Values on the command line are TOML literals (``6``, ``1e-3``, ``true``, ``["a", "b"]``), else bare text;
``none`` empties an option. Nothing is ignored: an unknown key is refused with the nearest full path, a key
given twice too.
"""

from __future__ import annotations

import importlib
import pkgutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import BaseModel, ValidationError

from exnihilo import config_keys as keys
from exnihilo.config import RunConfig
from exnihilo.errors import ConfigError, nearest

DEFAULT_MINUTES = 10.0  # where no budget is given
BUDGET = ("steps", "tokens", "epochs", "minutes")
_RECIPES = "exnihilo.recipes"  # found by name: recipes stand above this module
Tree = dict[str, Any]


# recipes -------------------------------------------------------------------------------------------


def recipe_names() -> list[str]:
    """The recipes: files of ``exnihilo/recipes``, one each; a first ``_`` marks what they share."""
    found = (module.name for module in pkgutil.iter_modules(importlib.import_module(_RECIPES).__path__))
    return sorted(name for name in found if not name.startswith("_"))


def find_recipe(name: str) -> RunConfig:
    """The configuration a recipe returns.

    Args:
        name: a file in ``exnihilo/recipes``, or the dotted path of a module of the user's own with a
            ``recipe()``.
    """
    dotted = name if "." in name else f"{_RECIPES}.{name}"
    if "." not in name and name not in recipe_names():
        raise ConfigError(
            f"unknown recipe {name!r}",
            expected=nearest(name, recipe_names()),
            next="exnihilo recipes lists them",
        )
    try:
        module = importlib.import_module(dotted)
    except (ModuleNotFoundError, ValueError) as error:
        raise ConfigError(
            f"recipe {name!r}: {error}",
            expected=f"one of {', '.join(recipe_names())}, or an importable dotted path (package.module)",
            next="check the spelling and PYTHONPATH",
        ) from error
    function = getattr(module, "recipe", None)
    if not callable(function):
        raise ConfigError(
            f"{dotted} has no function recipe()",
            expected="def recipe() -> RunConfig",
            next="add it to the module",
        )
    made = function()
    if not isinstance(made, RunConfig):
        raise ConfigError(f"{dotted}.recipe() returned {type(made).__name__}", expected="a RunConfig")
    return made


# values --------------------------------------------------------------------------------------------


def parse_value(path: str, text: str) -> Any:
    """The value that text given for a key path stands for.

    >>> parse_value("model.depth", "6"), parse_value("run", "2024"), parse_value("optim.clip", "none")
    (6, '2024', None)
    """
    if text.strip().lower() == "none" and keys.allows_none(path):
        return None
    quoted = text[:1] in ('"', "'")
    if keys.is_text(path) and not quoted:
        return text
    if "\n" in text or "\r" in text:
        return text
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    if path in keys.SOURCES and not isinstance(value, (str, list, dict)):
        return text  # data=1984 is a file's name
    return value if isinstance(value, (bool, int, float, str, list, dict)) else text  # dates stay text


def split_override(text: str) -> tuple[str, str]:
    """``"model.depth=6"`` -> ``("model.depth", "6")``; dashes in keys may be written for underscores."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(
            f"{text!r} is not a setting",
            expected="KEY=VALUE, e.g. model.depth=6",
            next="exnihilo train --help",
        )
    return key.strip().lstrip("-").replace("-", "_"), value


# layers --------------------------------------------------------------------------------------------


class _Layers:
    """A tree of explicit values with the origin of each."""

    def __init__(self) -> None:
        self.tree: Tree = {}
        self.origins: dict[str, str] = {}

    def put(self, path: str, value: Any, origin: str) -> None:
        """Set one key path; a table sets what it names, a bare path under `data` its sources."""
        value = _plain(value)
        if path in keys.SOURCES and isinstance(value, (str, list)):
            self.put(f"{path}.sources", value, origin)
        elif path in keys.sections() and isinstance(value, dict):
            for name, inner in value.items():
                self.put(f"{path}.{name}", inner, origin)
        elif path in keys.OPEN and isinstance(value, dict):
            for name, inner in value.items():
                self.put(f"{path}.{name}", inner, origin)
        elif path in keys.leaves() or keys.is_open(path) or path in keys.sections():
            self._set(path, value, origin)
        else:
            raise ConfigError(
                f"unknown key {path!r} ({origin})",
                expected=keys.suggest(path),
                next="exnihilo train RECIPE --dry-run shows every key",
            )

    def _set(self, path: str, value: Any, origin: str) -> None:
        *above, last = path.split(".")
        node = self.tree
        for name in above:
            if not isinstance(node.get(name), dict):
                node[name] = {}
            node = node[name]
        node[last] = value
        for key in [key for key in self.origins if key.startswith(path + ".")]:
            del self.origins[key]  # `val=none` empties what was below
        self.origins[path] = origin

    def config(self) -> RunConfig:
        try:
            return RunConfig.model_validate(self.tree)
        except ValidationError as error:
            raise _explain(error, self.origins) from None


def _plain(value: Any) -> Any:
    """Python's own values as TOML's: paths become text, tuples lists, sections tables."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(exclude_unset=True))
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _explain(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    """Pydantic's first complaint as: what was given, what is expected, what to do."""
    found = error.errors()
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    loc = [str(part) for part in first["loc"]]
    known = {*keys.leaves(), *keys.sections()}
    path = next(
        (".".join(loc[:n]) for n in range(len(loc), 0, -1) if ".".join(loc[:n]) in known), ".".join(loc)
    )
    rest = ".".join(loc[len(path.split(".")) :])
    if first["type"] == "extra_forbidden":
        below = ("path", "name", "weight", "fields")  # of one source
        return ConfigError(
            f"unknown key {'.'.join(loc)!r}",
            expected=nearest(loc[-1], below) if rest else keys.suggest(".".join(loc)),
            next="exnihilo train RECIPE --dry-run shows every key",
        )
    origin = origins.get(path, "configuration")
    given = f"{'.'.join(loc)} = {first['input']!r} ({origin})"
    more = error.error_count() - 1
    wanted = keys.expected(path) if path in known else first["msg"]
    if rest or first["type"] in ("value_error", "missing"):
        wanted = f"{first['msg']}; {path}: {wanted}"
    tail = f" ({more} more such key{'s' if more > 1 else ''})" if more else ""
    return ConfigError(given, expected=wanted, next=f"give {path}=VALUE of that kind{tail}")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key paths and values of a nested mapping, in order."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and (path in keys.sections() or path in keys.OPEN):
            yield from flatten(value, f"{path}.")
        else:
            yield path, value


def _read_toml(path: Path) -> Tree:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist", expected="a TOML file of options", next="check the path"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", expected="a TOML file in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is not valid TOML: {error}", expected='lines like: model.depth = 6 or data = "books/"'
        ) from error


def _overlay_value(path: str, value: Any) -> Any:
    """In TOML, which has no null, the text "none" empties an option that is not text."""
    if value == "none" and keys.allows_none(path) and not keys.allows(path, str):
        return None
    return value


def load(
    recipe: str | None,
    overrides: Sequence[str] = (),
    overlay: Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    base: Path | None = None,
) -> tuple[RunConfig, dict[str, str]]:
    """Merge the layers.

    Args:
        recipe: a recipe's name or dotted path; None with `base`, or where the overlay names it.
        overrides: ``KEY=VALUE`` texts, as on the command line.
        overlay: a TOML file between the recipe and the overrides.
        settings: key path -> Python value, as the Python API takes them; ``model__depth`` is ``model.depth``.
        base: a run's ``config.toml`` in the recipe's place (to resume it).

    Returns:
        The configuration, and for every key path its origin: ``default``, ``recipe gpt``, ``overlay
        small.toml``, ``run config.toml``, ``command line`` or ``python``.

    Raises:
        ConfigError: an unknown key (with the nearest), a wrong value (with what is expected), a key given
            twice.
    """
    layers = _Layers()
    over = _read_toml(overlay) if overlay is not None else {}
    if recipe is None and base is None:
        recipe = over.get("recipe")
        if not isinstance(recipe, str):
            raise ConfigError(
                "no recipe given",
                expected=f"one of {', '.join(recipe_names())}",
                next="exnihilo train gpt data=PATH",
            )
    if base is not None:
        for path, value in flatten(_read_toml(base)):
            layers.put(path, _overlay_value(path, value), f"run {base.name}")
    elif recipe is not None:
        for path, value in flatten(find_recipe(recipe).model_dump(exclude_unset=True)):
            layers.put(path, value, f"recipe {recipe}")
        layers.put("recipe", recipe, f"recipe {recipe}")
    if overlay is not None:
        named = over.pop("recipe", recipe)
        if recipe is not None and named != recipe:
            raise ConfigError(
                f"{overlay} is for recipe {named!r}, the command line says {recipe!r}",
                expected="the same recipe in both",
                next=f"remove the line recipe = {named!r}",
            )
        for path, value in flatten(over):
            layers.put(path, _overlay_value(path, value), f"overlay {overlay.name}")
    given: dict[str, str] = {}
    for text in overrides:
        path, value = split_override(text)
        if given.setdefault(path, value) != value:
            raise ConfigError(
                f"{path} was given twice: {given[path]!r} and {value!r}",
                expected="one value",
                next=f"keep one {path}=",
            )
        layers.put(path, parse_value(path, value), "command line")
    for name, value in (settings or {}).items():
        layers.put(name.replace("__", "."), value, "python")
    _own_budget(layers)
    if base is None:
        _by_files(layers)
        _own_codec(layers)
    config = layers.config()
    if base is None and all(getattr(config, name) is None for name in BUDGET):
        layers.put("minutes", DEFAULT_MINUTES, "default budget")
        config = layers.config()
    origins = {path: "default" for path in keys.leaves() if not _absent(config, path)}
    origins.update({path: origin for path, origin in layers.origins.items()})
    return config, origins


def _own_budget(layers: _Layers) -> None:
    """A budget that the user gives replaces the recipe's: ``steps=5000`` shall not end after its 3 epochs."""
    recipes = [name for name in BUDGET if layers.origins.get(name, "").startswith("recipe ")]
    if any(name in layers.origins and name not in recipes for name in BUDGET):
        for name in recipes:
            del layers.tree[name], layers.origins[name]


def _by_files(layers: _Layers) -> None:
    """Files that are no text: arrays of ids need the codec of ids, and with ``codec.kind=bytes`` files that
    are binary are read as bytes. What the user has set stays."""
    codec, data = layers.tree.get("codec") or {}, layers.tree.get("data") or {}
    found = data.get("sources") or ()
    listed = [found] if isinstance(found, str) else list(found)
    paths = [str(s.get("path", "")) if isinstance(s, dict) else str(s) for s in listed]
    free = layers.origins.get("codec.kind", "recipe ").startswith("recipe ")
    text = codec.get("kind", "bpe") in ("bpe", "wordpiece", "chars")
    if paths and all(path.lower().endswith(".npy") for path in paths) and free and text:
        if not codec.get("path") and not layers.tree.get("init"):
            layers.put("codec.kind", "ids", "derived from data")
    elif codec.get("kind") == "bytes" and "data.format" not in layers.origins:
        if any(_binary(Path(path).expanduser()) for path in paths):
            layers.put("data.format", "bytes", "derived from data")


def _own_codec(layers: _Layers) -> None:
    """A codec that the user names has not what the recipe says of its own: letters in lower case."""
    kind, lower = (layers.origins.get(f"codec.{name}", "") for name in ("kind", "lowercase"))
    if kind and not kind.startswith("recipe ") and lower.startswith("recipe "):
        if layers.tree["codec"]["kind"] != "wordpiece":
            del layers.tree["codec"]["lowercase"], layers.origins["codec.lowercase"]


def _binary(path: Path) -> bool:
    """Whether it is a file that begins as no text does."""
    try:
        with path.open("rb") as file:
            return b"\0" in file.read(8192)
    except OSError:  # a folder, a glob, nothing: whoever reads it says so
        return False


def _absent(config: RunConfig, path: str) -> bool:
    """Whether a section above a path is none (`val` when it is a share of `data`)."""
    node: Any = config
    for name in path.split(".")[:-1]:
        node = getattr(node, name)
        if node is None:
            return True
    return False


# text ----------------------------------------------------------------------------------------------


def load_toml(path: Path) -> RunConfig:
    """The configuration that a `config.toml` written by `dump` holds (over the defaults, no recipe)."""
    return load(None, base=path)[0]


def dump(config: RunConfig, origins: Mapping[str, str] | None = None) -> str:
    """TOML text of a whole configuration; each value's origin stands beside it. Loads back to the same.

    Options that are empty stand as comments (``# width = none``), except where empty is not their default.
    """
    document = tomlkit.document()
    document.add(tomlkit.comment("exnihilo: every option of this run, with where its value came from"))
    _section(document, config, "", origins or {})
    return tomlkit.dumps(document)


def _section(table: Any, section: BaseModel, prefix: str, origins: Mapping[str, str]) -> None:
    below: list[tuple[str, BaseModel | dict[str, Any]]] = []
    for name, field in type(section).model_fields.items():
        path, value = f"{prefix}{name}", getattr(section, name)
        inner = keys.section_of(field.annotation)
        origin = origins.get(path, "")
        if inner is not None and value is not None:
            below.append((name, value))
        elif value is None and field.get_default(call_default_factory=True) is None:
            table.add(tomlkit.comment(f"{name} = none" + (f"  # {origin}" if origin else "")))
        elif path in keys.OPEN:
            if value:
                below.append((name, value))
        else:
            item = tomlkit.item("none" if value is None else _toml(value))
            if origin:
                item.comment(origin)
            table.add(name, item)
    for name, value in below:
        inner_table = tomlkit.table()
        if isinstance(value, BaseModel):
            _section(inner_table, value, f"{prefix}{name}.", origins)
        else:
            for key, entry in value.items():
                item = tomlkit.item(_toml(entry))
                if origin := origins.get(f"{prefix}{name}.{key}", ""):
                    item.comment(origin)
                inner_table.add(key, item)
        table.add(name, inner_table)


def _toml(value: Any) -> Any:
    """TOML has no null: empty entries inside tables are left out."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        table.update({str(k): _toml(v) for k, v in value.items() if v is not None})
        return table
    if isinstance(value, (list, tuple)):
        array = tomlkit.array()
        array.extend([_toml(v) for v in value])
        return array
    return value
