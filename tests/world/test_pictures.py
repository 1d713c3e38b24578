"""The world's drawings: what a name says is what is drawn, and a split holds out new combinations."""

from __future__ import annotations

import io
import json
import wave
from collections import Counter
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from exnihilo.errors import UsageError
from exnihilo.world import media, pictures, sounds
from exnihilo.world.document import Document
from exnihilo.world.pictures import BUCKETS, COLOURS, KNOWN, NEW, THINGS, bucket_of, facts, render
from exnihilo.world.scenes import scenes
from exnihilo.world.views import VIEWS


def doc(number: int) -> Document:
    """A document that has a number and nothing else: pictures read no story."""
    return cast(Document, SimpleNamespace(index=number))


def made(view: str, count: int, start: int = 0) -> list[dict[str, Any]]:
    return [e for i in range(start, start + count) for e in VIEWS[view].make(doc(i))]


def test_each_shape_is_drawn_in_its_colour_at_its_place():
    corners = {"1": (0, 0), "2": (0, 1), "3": (1, 0), "4": (1, 1)}
    for (i, thing), place in product(enumerate(THINGS), corners):
        colour = list(COLOURS)[i % len(COLOURS)]
        image = render(f"world:{colour}-{thing}@{place}:{i}", 64).astype(int)
        ground = np.median(image.reshape(-1, 3), 0)
        changed = np.abs(image - ground).sum(-1) > 90
        quarters = changed.reshape(2, 32, 2, 32).mean((1, 3))
        assert np.unravel_index(quarters.argmax(), (2, 2)) == corners[place], thing
        assert quarters.max() > 0.06 and np.sort(quarters.ravel())[2] < 0.02, thing
        far = {name: np.abs(image[changed] - np.array(rgb)).sum(-1).min() for name, rgb in COLOURS.items()}
        assert far[colour] < 45, (thing, colour, far)


def test_things_can_be_told_apart():
    alone = {t: render(f"world:black-{t}@0:1", 32).astype(int).mean(-1) < 128 for t in THINGS}
    for a, b in product(THINGS, THINGS):
        if a < b:
            shared = (alone[a] & alone[b]).sum() / (alone[a] | alone[b]).sum()
            assert shared < 0.8, (a, b, shared)


def test_the_same_name_is_the_same_picture_at_any_size():
    name = "world:red-bird@13+blue-drum@2:9"
    assert (render(name) == render(name)).all()
    small, large = render(name, 32).astype(float), render(name, 128).astype(float)
    assert np.abs(large.reshape(32, 4, 32, 4, 3).mean((1, 3)) - small).mean() < 4
    assert (render(name) != render(name[:-1] + "8")).any()
    assert [(s.thing, s.colour, s.number) for s in facts(name)] == [("bird", "red", 2), ("drum", "blue", 1)]


@pytest.mark.parametrize(
    "name",
    ["world:red-kite@1", "world:pink-kite@1:3", "world:red-cat@1:3", "world:red-kite@11:3", "bell:3",
     "world:red-kite@01:3", "world:red-kite@1+blue-bell@1:3", "world:bell:3", "world:red-kite@5:3", ""],
)  # fmt: skip
def test_other_names_are_refused(name: str):
    with pytest.raises(ValueError, match="expected world:COLOUR-THING"):
        render(name)


def test_buckets_are_a_latin_square():
    cells = Counter(bucket_of(t, c, n) for t in THINGS for c in COLOURS for n in range(1, 5))
    assert set(cells.values()) == {len(THINGS) * len(COLOURS) * 4 // BUCKETS}
    for c, n in product(COLOURS, range(1, 5)):
        assert sorted(bucket_of(t, c, n) for t in THINGS) == list(range(BUCKETS))
    for t, c in product(THINGS, COLOURS):  # with a bucket left out, each thing was seen in each colour
        assert len({bucket_of(t, c, n) for n in range(1, 5)} & set(KNOWN)) >= 2


def test_what_is_held_out_is_in_no_other_example():
    examples = made("scenes", 3000)
    sides: dict[bool, set[tuple[str, str, int]]] = {True: set(), False: set()}
    heard: dict[bool, set[str]] = {True: set(), False: set()}
    for e in examples:
        new = e["_group"] in {f"bucket {b}" for b in NEW}
        for s in facts(e["picture"]) if "picture" in e else ():
            sides[new].add((s.thing, s.colour, s.number))
        if "sound" in e and "+" in e["sound"]:
            heard[new].add(e["sound"].split(":")[1])
    assert not sides[True] & sides[False] and len(sides[True]) > 50 and len(sides[False]) > 400
    assert not heard[True] & heard[False] and heard[True]
    for part in range(3):  # but no part of it is new
        assert {c[part] for c in sides[True]} <= {c[part] for c in sides[False]}
    assert not any(e["_group"] in {f"bucket {b}" for b in NEW} for e in examples[: pictures.FIRST])


def truth(example: dict[str, Any]) -> str:
    """The answer, found again from the names alone."""
    shown = list(facts(example["picture"])) if "picture" in example else []
    kinds = example["sound"].split(":")[1].split("+") if "sound" in example else []
    question = example["question"]
    asked = next((s for s in shown if s.thing in question or pictures.plural(s.thing) in question), None)
    if "heard" in question and shown:
        asked = next((s for s in shown if s.thing == kinds[0]), None)
    if question == "What is in the picture?":
        return shown[0].phrase
    if question.startswith("What colour"):
        return asked.colour if asked else "?"
    if question.startswith("How many"):
        return pictures.NUMBERS[asked.number - 1] if asked else "?"
    if question.startswith("Where"):
        return pictures.PLACES[asked.places[0]] if asked else "?"
    if question.startswith("Is "):
        return "yes" if asked else "no"
    if question == "What is heard?":
        return " and then ".join(sounds.WORDS[k] for k in kinds)
    return f"the {kinds[0 if question.endswith('first?') else -1]}"


def test_every_answer_follows_from_what_is_seen_and_heard():
    for example in made("scenes", 1500, start=100):
        assert truth(example) == example["answer"], example


def test_a_question_alone_tells_little():
    answers: dict[str, Counter[str]] = {}
    for e in made("scenes", 6000):
        answers.setdefault(e["question"].split(" the ")[0].split(" are ")[0], Counter())[e["answer"]] += 1
    guessed = sum(c.most_common(1)[0][1] for c in answers.values())
    assert guessed / sum(c.total() for c in answers.values()) < 0.3


def test_kinds_choose_what_a_question_is_about():
    for kind, has in (("picture", {"picture"}), ("sound", {"sound"}), ("both", {"picture", "sound"})):
        for i in range(40):
            [example] = scenes(doc(i), kind)
            assert {"picture", "sound"} & set(example) == has


def test_files_hold_what_names_say(tmp_path: Path):
    found = media.write("scenes", tmp_path, count=30, size=24, rate=8000)
    rows = [json.loads(line) for line in (tmp_path / "scenes.jsonl").read_text().splitlines()]
    names = made("scenes", 30)
    assert len(rows) == found["rows"] == 30
    assert found["pictures"] == sum("picture" in n for n in names)
    image = pytest.importorskip("PIL.Image")
    for row, name in zip(rows, names, strict=True):
        assert (row["question"], row["answer"], row["group"]) == (
            name["question"], name["answer"], name["_group"],
        )  # fmt: skip
        assert ("picture" in row, "sound" in row) == ("picture" in name, "sound" in name)
        if "picture" in row:
            held = np.array(image.open(tmp_path / row["picture"]))
            assert (held == render(name["picture"], 24)).all()
        if "sound" in row:
            with wave.open(str(tmp_path / row["sound"])) as file:
                assert (file.getframerate(), file.getnchannels()) == (8000, 1)
                samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
            assert np.abs(samples - sounds.render(name["sound"], 8000)).max() < 1e-4
    with pytest.raises(UsageError, match="exists"):
        media.write("scenes", tmp_path, count=1)
    assert media.write("scenes", tmp_path, count=1, force=True)["rows"] == 1


def test_wrong_requests_are_refused(tmp_path: Path):
    for given, message in (
        ({"view": "drawings"}, "no view"), ({"view": "scenes", "kind": "smell"}, "no kind"),
        ({"view": "pictures", "count": 0}, "count=0"), ({"view": "pictures", "size": 2}, "size=2"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            media.write(out=tmp_path / "none", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


def test_png_is_read_back_by_another_reader():
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert (np.array(image.open(io.BytesIO(media.png(pixels)))) == pixels).all()
