"""Layers: who wins, what is refused, and that the text of a configuration loads back to the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exnihilo import config_keys
from exnihilo.config import DataConfig, OptimConfig, RunConfig, ScheduleConfig, SourceConfig
from exnihilo.config_layers import (
    DEFAULT_MINUTES,
    dump,
    find_recipe,
    load,
    load_toml,
    parse_value,
    recipe_names,
)
from exnihilo.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_later_layers_win_and_origins_say_who(tmp_path: Path) -> None:
    overlay = write(tmp_path / "small.toml", "minutes = 3\n[model]\ndepth = 5\ncontext = 128\n")
    config, origins = load("gpt", ["model.depth=7", "data=books/"], overlay)
    assert (config.model.depth, config.model.context, config.minutes) == (7, 128, 3)
    assert config.data.sources == (SourceConfig(path="books/"),)
    assert origins["model.depth"] == "command line"
    assert origins["model.context"] == "overlay small.toml"
    assert origins["model.family"] == "recipe gpt"
    assert origins["seed"] == "default"
    assert origins["data.sources"] == "command line"


def test_every_present_key_has_an_origin() -> None:
    config, origins = load("gpt", ["steps=1"])
    missing = [
        key
        for key in config_keys.leaves()
        if key not in origins and not key.startswith(("val.", "tune.lora.", "model.yarn."))
    ]
    assert not missing and config.val is None


@pytest.mark.parametrize("order", [["data=x/", "data.temperature=2"], ["data.temperature=2", "data=x/"]])
def test_a_source_and_its_options_mix_in_any_order(order: list[str]) -> None:
    config, _ = load("gpt", order)
    assert config.data.temperature == 2
    assert [source.path for source in config.data.sources] == ["x/"]


def test_mixture_by_a_toml_list() -> None:
    config, _ = load("gpt", ['data=["a/", {path = "b/", weight = 2.0}]', "val=v.txt"])
    assert [(s.path, s.weight) for s in config.data.sources] == [("a/", None), ("b/", 2.0)]
    assert config.val is not None and config.val.sources[0].path == "v.txt"


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("model.depth", "6", 6),
        ("optim.lr", "1e-3", 1e-3),
        ("optim.clip", "none", None),
        ("checkpointing", "true", True),
        ("run", "2024-01-01", "2024-01-01"),
        ("run", "2024", "2024"),
        ("run", "'quoted'", "quoted"),
        ("data", "1984", "1984"),
        ("data", "C:\\books", "C:\\books"),
        ("data", "a = b\nc = 1", "a = b\nc = 1"),
        ("eval.prompt", "true", "true"),
        ("optim.betas", "[0.8, 0.9]", [0.8, 0.9]),
    ],
)
def test_values_are_toml_literals_or_bare_text(path: str, text: str, value: object) -> None:
    assert parse_value(path, text) == value


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("modle.depth=6", "'model.depth'"),
        ("depth=6", "'model.depth'"),
        ("model.dept=6", "'model.depth'"),
        ("lr=1", "'optim.lr'"),
        ("optim.schedul.name=wsd", "'optim.schedule.name'"),
        ("minuts=1", "'minutes'"),
        ("vocab_size=8", "'codec.vocab_size' or 'model.vocab_size'"),
    ],
)
def test_unknown_key_names_the_nearest_full_path(override: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("gpt", [override])
    assert override.split("=")[0] in caught.value.given
    assert hint in caught.value.expected
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("minutes=ten", "a number, above 0, or none"),
        ("batch.tokens=0", "a whole number, at least 1"),
        ("model.depth=2.5", "a whole number"),
        ("data.val_fraction=1", "at least 0, below 1"),
        ("dtype=fp8", "one of auto, fp32, bf16, fp16"),
        ("optim.betas=[1, 2, 3]", "a list of 2 numbers"),
        ("model=6", "a table"),
        ("seed=none", "a whole number"),
        ("checkpointing=maybe", "true or false"),
    ],
)
def test_wrong_value_says_what_was_given_and_what_is_expected(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("gpt", [override])
    key, value = override.split("=", 1)
    assert key in caught.value.given and "command line" in caught.value.given
    assert expected in caught.value.expected
    assert caught.value.next


def test_a_key_given_twice_is_refused_and_the_same_value_is_not() -> None:
    with pytest.raises(ConfigError, match="given twice"):
        load("gpt", ["steps=1", "steps=2"])
    assert load("gpt", ["steps=1", "steps=1"])[0].steps == 1


def test_overlay_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load("gpt", [], tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load("gpt", [], write(tmp_path / "a.toml", "depth ="))
    with pytest.raises(ConfigError, match=r"'model.dpth' \(overlay b.toml\)"):
        load("gpt", [], write(tmp_path / "b.toml", "[model]\ndpth = 3\n"))
    with pytest.raises(ConfigError, match="is for recipe 'bert'"):
        load("gpt", [], write(tmp_path / "c.toml", 'recipe = "bert"\n'))


def test_overlay_may_name_the_recipe(tmp_path: Path) -> None:
    config, origins = load(None, [], write(tmp_path / "a.toml", 'recipe = "gpt"\nsteps = 4\n'))
    assert (config.recipe, config.steps, origins["steps"]) == ("gpt", 4, "overlay a.toml")
    with pytest.raises(ConfigError, match="no recipe"):
        load(None, [])


def test_without_a_budget_ten_minutes_and_it_says_so() -> None:
    config, origins = load("gpt")
    assert (config.minutes, origins["minutes"]) == (DEFAULT_MINUTES, "default budget")
    assert load("gpt", ["steps=5"])[0].minutes is None


def test_python_settings_take_dots_and_double_underscores() -> None:
    settings_ = {"model.depth": 6, "model__width": 64, "data": Path("books"), "optim": {"name": "sgd"}}
    config, origins = load("gpt", settings=settings_)
    assert (config.model.depth, config.model.width, config.optim.name) == (6, 64, "sgd")
    assert config.data.sources[0].path == "books"
    assert origins["optim.name"] == "python"
    with pytest.raises(ConfigError, match="did you mean 'model.depth'"):
        load("gpt", settings={"model__dept": 6})


def test_a_config_section_can_be_given_whole() -> None:
    config, _ = load("gpt", settings={"optim": OptimConfig(lr=0.1, schedule=ScheduleConfig(name="cosine"))})
    assert (config.optim.lr, config.optim.schedule.name, config.optim.name) == (0.1, "cosine", "muon")


def test_a_budget_of_ones_own_replaces_the_recipes() -> None:
    assert load("sentence_classification")[0].epochs is not None
    assert load("sentence_classification")[0].minutes is None
    config, origins = load("sentence_classification", ["steps=9"])
    assert (config.steps, config.epochs, config.minutes) == (9, None, None)
    assert origins["epochs"] == "default"
    config, _ = load("sentence_classification", ["epochs=2", "minutes=1"])
    assert (config.epochs, config.minutes) == (2, 1)


def test_how_much_is_tuned_is_said_in_three_ways(tmp_path: Path) -> None:
    tune = {value: load("bert", [f"tune.freeze={value}"])[0].tune for value in ("none", "2", "trunk")}
    assert [t.freeze for t in tune.values()] == ["none", 2, "trunk"]
    config, origins = load("bert", ["tune.lora.rank=4", 'tune.lora.targets=["q", "v"]'])
    assert config.tune.lora is not None and config.tune.lora.targets == ("q", "v")
    assert load_toml(write(tmp_path / "c.toml", dump(config, origins))).tune == config.tune
    for wrong in ("tune.freeze=-1", "tune.freeze=all", "tune.layer_decay=0", "tune.lora.rank=0"):
        with pytest.raises(ConfigError):
            load("bert", [wrong])


def test_recipes_are_files_and_dotted_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "gpt" in recipe_names()
    for name in recipe_names():
        assert isinstance(find_recipe(name), RunConfig)
    package = tmp_path / "my_own_recipes"
    package.mkdir()
    write(package / "__init__.py", "")
    write(
        package / "tiny.py",
        "from exnihilo.config import RunConfig\ndef recipe():\n    return RunConfig(recipe='x', steps=3)\n",
    )
    write(package / "wrong.py", "def recipe():\n    return 3\n")
    write(package / "empty.py", "")
    monkeypatch.syspath_prepend(tmp_path)
    config, origins = load("my_own_recipes.tiny")
    assert (config.steps, config.recipe) == (3, "my_own_recipes.tiny")
    assert origins["steps"] == "recipe my_own_recipes.tiny"
    for name, words in [
        ("my_own_recipes.wrong", "returned int"),
        ("my_own_recipes.empty", "no function recipe"),
        ("my_own_recipes.absent", "absent"),
        ("gtp", "unknown recipe"),
    ]:
        with pytest.raises(ConfigError, match=words):
            load(name)
    for name in [key for key in sys.modules if key.startswith("my_own_recipes")]:
        del sys.modules[name]


# a strategy for every key, from the fields themselves, so that a new option is tested without a line here
_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
_VALUES = {
    "alarms.likelihood": st.floats(1, 9),
    "tune.lora.bits": st.sampled_from([4, None]),
    "model.straight": st.tuples(st.integers(1, 99), st.integers(1, 99)) | st.none(),
    "model.yarn.factor": st.floats(1.1, 9),
    "checkpoint.best": st.just(True),  # which use=best asks for
    "options": st.dictionaries(
        st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.integers(0, 9) | _TEXT, max_size=2
    ),
    "data.sources": st.lists(
        st.fixed_dictionaries({"path": _TEXT}, optional={"weight": st.floats(0.1, 9), "name": _TEXT}),
        max_size=2,
    ),
    "model.inputs": st.dictionaries(
        st.sampled_from(["sound", "patch"]),
        st.lists(st.integers(1, 9), min_size=1, max_size=2).map(tuple),
        max_size=2,
    ),
}


def _strategy(path: str) -> st.SearchStrategy[object]:
    if path in _VALUES:
        return _VALUES[path]
    words = config_keys.expected(path)
    if words.startswith("one of "):
        return st.sampled_from(words.removeprefix("one of ").removesuffix(", or none").split(", "))
    if words.startswith("a whole number"):
        base: st.SearchStrategy[object] = st.integers(8, 10**9)
    elif words.startswith("a number"):
        base = st.floats(0.001, 0.999)
    elif words.startswith("true"):
        base = st.booleans()
    elif words.startswith("text"):
        base = _TEXT
    elif words.startswith("a list of 2"):
        base = st.tuples(st.floats(0, 1), st.floats(0, 1))
    elif words.startswith("a table"):
        base = st.dictionaries(_TEXT, _TEXT, max_size=2)
    else:
        base = st.just([])
    return base | st.none() if config_keys.allows_none(path) else base


_KEYS = sorted(key for key in config_keys.leaves() if not key.startswith("val."))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.dictionaries(st.sampled_from(_KEYS), st.integers(), max_size=8).flatmap(
    lambda keys: st.fixed_dictionaries({key: _strategy(key) for key in keys})))  # fmt: skip
def test_text_loads_back_to_the_same_configuration(tmp_path: Path, values: dict[str, object]) -> None:
    config, origins = load("gpt", settings=values)
    again = load_toml(write(tmp_path / "config.toml", dump(config, origins)))
    assert again == config
    assert load_toml(write(tmp_path / "plain.toml", dump(config))) == config


def test_text_shows_origins_and_empty_options() -> None:
    text = dump(*load("gpt", ["model.depth=6", "optim.clip=none"]))
    assert "depth = 6 # command line" in text
    assert "# width = none" in text
    assert 'clip = "none" # command line' in text


def test_resumed_ground_is_the_runs_own_config(tmp_path: Path) -> None:
    base = write(tmp_path / "config.toml", dump(load("gpt", ["steps=9", "optim.clip=none"])[0]))
    config, origins = load(None, ["steps=12"], base=base)
    assert (config.steps, config.optim.clip) == (12, None)
    assert origins["steps"] == "command line" and origins["optim.clip"] == "run config.toml"


def test_data_may_be_a_section_a_list_or_a_path() -> None:
    for value in ("a", ["a"], Path("a"), {"sources": "a"}, DataConfig(sources=(SourceConfig(path="a"),))):
        assert load("gpt", settings={"data": value})[0].data.sources[0].path == "a"


@given(st.text(max_size=30))
@settings(max_examples=80, deadline=None)
def test_no_text_given_as_a_setting_crashes(text: str) -> None:
    for override in (text, f"run={text}", f"model.depth={text}", f"data={text}"):
        try:
            config, _ = load("gpt", [override])
        except ConfigError as error:
            assert error.given
        else:
            assert isinstance(config, RunConfig)


@given(text=_TEXT)
def test_bare_text_reaches_a_text_option_as_it_is(text: str) -> None:
    if text.strip().lower() == "none" or text[:1] in ("'", '"'):
        return
    assert load("gpt", [f"eval.prompt={text}"])[0].eval.prompt == text


def test_the_reference_lists_every_key_with_what_it_takes_and_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    keys = {key: field for key, field in config_keys.leaves().items() if not key.startswith("val.")}
    assert set(rows) == set(keys)
    for key, field in keys.items():
        assert config_keys.expected(key).replace("|", "\\|") in rows[key], key
        default = field.get_default(call_default_factory=True)
        shown = rows[key].replace("\\|", "/").split("|")[3].strip()
        assert (shown == "none") == (default is None), key
        if isinstance(default, (int, float)) and not isinstance(default, bool):
            assert float(shown) == default, key
