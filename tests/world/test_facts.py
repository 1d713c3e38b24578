"""The fact sheet: constant for a seed, complete, and not to be guessed from names."""

from collections import Counter
from pathlib import Path

import pytest

from exnihilo.world import FactSheet, World


def test_constant_for_a_seed() -> None:
    assert FactSheet(3).lines() == FactSheet(3).lines()
    same = sum(a == b for a, b in zip(FactSheet(3).lines(), FactSheet(4).lines(), strict=True))
    assert same < 0.25 * len(FactSheet(3).lines())


def test_everybody_has_everything(world: World) -> None:
    sheet = world.sheet
    assert len(sheet.people) == 40 and len(sheet.places) == 26 and len(sheet.animals) == 20
    assert len({t.noun for t in sheet.things}) >= 75
    for person in sheet.people:
        assert person.home in sheet.places and person.work in sheet.places and person.home is not person.work
        assert person.friend is not person
        assert sheet.person(person.name) is person
    assert Counter(p.friend.name for p in sheet.people) == dict.fromkeys((p.name for p in sheet.people), 1)
    assert sum(p.female for p in sheet.people) == 20
    assert len({x.food for x in sheet.animals}) == 20
    with pytest.raises(KeyError):
        sheet.person("Nobody")


def test_facts_are_spread() -> None:
    homes, jobs = Counter(), Counter()
    for seed in range(30):
        mia = FactSheet(seed).person("Mia")
        homes[mia.home.n] += 1
        jobs[mia.job] += 1
    assert len(homes) > 12 and len(jobs) > 12


def test_forms_are_unambiguous(world: World) -> None:
    """No name is the beginning of another's, and no two things of a kind look the same."""
    names = [p.name for p in world.sheet.people] + [x.name for x in world.sheet.animals]
    assert not any(a != b and b.startswith(a) for a in names for b in names)
    for values in (world.sheet.things, world.sheet.places):
        fulls = [v.f.get("a", v.f[""]) for v in values]
        assert len(set(fulls)) == len(fulls)


def test_facts_are_told(world: World) -> None:
    text = "\n".join(doc.text for doc in world.stories(3000))
    told = sum(line in text for line in world.sheet.lines())
    assert told > 0.8 * len(world.sheet.lines())


def test_the_page_shows_a_real_document(world: World) -> None:
    page = Path(__file__).parents[2] / "docs" / "world.md"
    if not page.exists():
        pytest.skip("docs/ is not beside tests/")
    text = page.read_text(encoding="utf-8")
    index = int(text.split("world.document(")[1].split(")")[0])
    assert world.document(index).text in text
