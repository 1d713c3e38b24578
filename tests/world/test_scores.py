"""Well-formedness of sentences, and probes."""

import math

import pytest

from exnihilo.world import Document, Probe, World
from exnihilo.world.score import split


def test_the_world_is_well_formed(world: World, docs: list[Document]) -> None:
    for doc in docs[:250]:
        assert split(doc.text) == [s.text for s in doc.spans]
        assert world.well_formed(doc.text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "Mia were at the mill.",
        "Mia had an red kite.",
        "Mia walked the mill to.",
        "mia felt sad.",
        "She felt sad",
        "xq zzk the of",
        '"Hello, Ben, said Mia.',
        "Mia gave the kite to.",
        "...",
    ],
)
def test_babble_is_not(world: World, text: str) -> None:
    assert world.well_formed(text) == 0.0


def test_scrambled_words_are_not(world: World, docs: list[Document]) -> None:
    from exnihilo.world.rng import Draws

    draws, good, n = Draws(9), 0, 0
    for doc in docs[:40]:
        for sentence in doc.sentences:
            words = sentence.text[:-1].split()
            mixed = draws.shuffled(words)
            if len(words) > 3 and mixed != words:
                text = " ".join(mixed) + "."
                good += world.well_formed(text[0].upper() + text[1:]) == 1.0
                n += 1
    assert good / n < 0.02


def test_share_and_the_cut_end(world: World) -> None:
    assert world.well_formed("Mia felt sad. Mia sad felt.") == 0.5
    assert world.well_formed("Mia felt sad. Then Mia wal") == 0.5
    assert world.well_formed("Mia felt sad. Then Mia wal", drop_last=True) == 1.0
    assert world.well_formed("") == 0.0


def oracle(world: World, probe: Probe) -> int | None:
    """Which choice the world itself can go on with: the one whose text it can follow furthest."""
    reach = [world.parse(probe.prompt + choice).position for choice in probe.choices]
    whole = [len(probe.prompt + choice) for choice in probe.choices]
    full = [i for i, (r, n) in enumerate(zip(reach, whole, strict=True)) if r >= n]
    return full[0] if len(full) == 1 else None


@pytest.mark.parametrize("kind", ["consistency", "recall"])
def test_the_generator_itself_answers_all(world: World, kind: str) -> None:
    probes = world.probes(kind, 150)
    assert len(probes) == 150
    for probe in probes:
        assert 2 <= len(probe.choices) <= 4 and len(set(probe.choices)) == len(probe.choices)
        assert all(choice.startswith(" ") for choice in probe.choices)
        assert not probe.prompt.endswith(" ")
        assert oracle(world, probe) == probe.answer, probe
    about = {probe.about for probe in probes}
    assert len(about) >= 3


def test_probes_have_no_favourite_place(world: World) -> None:
    for kind in ("consistency", "recall"):
        probes = world.probes(kind, 400, seed=2)
        chance = sum(1 / len(p.choices) for p in probes)
        first = sum(p.answer == 0 for p in probes)
        assert abs(first - chance) < 4 * math.sqrt(len(probes) / 4)
        longest = sum(max(p.choices, key=len) == p.choices[p.answer] for p in probes)
        assert longest < 0.65 * len(probes)


def test_recall_is_not_in_the_prompt(world: World) -> None:
    for probe in world.probes("recall", 100, seed=5):
        fact = probe.choices[probe.answer].strip(" .").split(",")[0]
        assert fact not in probe.prompt


def test_probes_are_reproducible(world: World) -> None:
    assert world.probes("recall", 20, seed=3) == World(0).probes("recall", 20, seed=3)
    assert world.probes("recall", 20, seed=3) != world.probes("recall", 20, seed=4)
