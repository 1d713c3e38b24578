"""What a base model is said to have, measured on the embedded world: random weights against the trained ones.

- syntax: share of well-formed sentences in texts that the model makes up (the world's grammar decides);
- meaning: of held-out stories, the continuation that is true of the story against rivals that are not;
- recall: facts of the world that the story at hand does not say, against the same facts of others.

Intervals are 95%: Wilson for shares of probes, bootstrap over texts for syntax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exnihilo.infer import Choice, choose, generate
from exnihilo.infer import Probe as Question
from exnihilo.infer.interval import bootstrap
from exnihilo.quickstart.chain import Chain
from exnihilo.train.progress import Display, shown

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model
    from exnihilo.world import World

TEXTS = 48  # made up by each model
LENGTH = 160  # tokens of each at most
PROBES = 400  # of each kind
WHAT = {
    "consistency": "meaning: true of the story",
    "recall": "recall: facts of the world",
}


def score(chain: Chain) -> list[dict[str, Any]]:
    """Fills the chain's figures; returns the tables to show."""
    from exnihilo.world import World

    assert chain.codec is not None and chain.random is not None and chain.base is not None
    world = World(0)
    models = {"random": chain.random, "base": chain.base}
    with shown(True) as display:
        rows = [_syntax(chain, models, world, display)]
        rows += [_probes(chain, models, world, kind, display) for kind in WHAT]
        display.start("loss on the held-out stories", unit="tokens")
        chain.figures["losses"] = losses(chain, models)
        display.stop()
    found = chain.figures["losses"]
    floor, chance = chain.figures["floor_nats"], chain.figures["chance_nats"]
    loss = {name: found[name]["loss"] for name in models}
    gap = (chance - loss["base"]) / (chance - floor)
    chain.figures["share_of_the_way_to_the_floor"] = gap
    rows.append(
        [
            "loss, nats a token",
            f"{loss['random']:.3f}",
            f"{loss['base']:.3f}",
            f"{chance:.3f}",
            f"{floor:.3f}",
        ]
    )
    bits, least = {name: found[name]["bpb"] for name in models}, chain.figures["floor_bits_per_byte"]
    rows.append(["bits a byte", f"{bits['random']:.3f}", f"{bits['base']:.3f}", "", f"{least:.3f}"])
    return [
        {
            "title": "Random weights against the base model, on held-out stories",
            "head": ["", "random", "base", "chance", "best"],
            "rows": rows,
            "note": f"95% intervals; {TEXTS} made-up texts, {PROBES} probes of each kind. "
            f"The base model has gone {gap:.1%} of the way from chance to the entropy floor.",
        }
    ]


def losses(chain: Chain, models: dict[str, Model]) -> dict[str, dict[str, float]]:
    """Loss and bits per byte of each model over the whole held-out split."""
    from exnihilo.eval import evaluate
    from exnihilo.objective import registry

    assert chain.codec is not None and chain.splits is not None and chain.splits.val is not None
    objective = registry.create(chain.config.objective, chain.config.options)
    out = {}
    for name, model in models.items():
        found = evaluate(
            model,
            objective,
            chain.splits.val,
            device="cpu",
            micro_rows=16,
            token_bytes=chain.codec.token_bytes(),
        )
        out[name] = {"loss": found["loss"], "bpb": found["bpb"], "tokens": found["tokens"]}
    return out


def well_formed(model: Model, codec: Codec, world: World, seed: int) -> tuple[float, float, float, int]:
    """(share, low, high, sentences) of well-formed sentences in made-up texts; each sentence weighs the
    same."""
    made = generate(model, codec, [""] * TEXTS, max_new_tokens=LENGTH, temperature=1.0, seed=seed, rows=TEXTS)
    from exnihilo.world.score import split

    counts: list[tuple[int, int]] = []
    for generation in made:
        sentences = split(generation.text)
        if generation.finish_reason == "length" and sentences:
            sentences.pop()  # cut by the limit, not by the model
        counts.append((sum(map(world.recogniser, sentences)), len(sentences)))
    total = sum(count for _, count in counts)
    if not total:
        return 0.0, 0.0, 1.0, 0
    share = sum(right for right, _ in counts) / total
    # sentences of one text stand together: texts are drawn, and the ratio is linearised around the share
    mean = total / len(counts)
    low, high = bootstrap([share + (right - share * count) / mean for right, count in counts])
    return share, max(0.0, low), min(1.0, high), total


def _syntax(chain: Chain, models: dict[str, Model], world: World, display: Display) -> list[str]:
    assert chain.codec is not None
    cells = []
    for name, model in models.items():
        display.start(f"syntax of the {name} model")
        share, low, high, count = well_formed(model, chain.codec, world, chain.seed)
        chain.figures.setdefault("syntax", {})[name] = {
            "share": share,
            "low": low,
            "high": high,
            "sentences": count,
        }
        cells.append(_cell(share, low, high))
    return ["syntax: well formed", *cells, "0%", "100%"]


def _probes(chain: Chain, models: dict[str, Model], world: World, kind: str, display: Display) -> list[str]:
    from exnihilo.world.probes import probes

    assert chain.codec is not None
    longest = chain.config.model.context
    asked = [
        Question(probe.prompt, probe.choices, probe.answer)
        for probe in probes(world, kind, PROBES, seed=1)
        if max(len(chain.codec.encode(probe.prompt + text)) for text in probe.choices) + 2 < longest
    ]
    cells, chance = [], 0.0
    for name, model in models.items():
        display.start(f"{kind} of the {name} model")
        found: Choice = choose(model, chain.codec, asked, by="sum")
        chance = found.chance
        chain.figures.setdefault(kind, {})[name] = {
            "share": found.accuracy,
            "low": found.low,
            "high": found.high,
            "probes": found.count,
            "chance": chance,
        }
        cells.append(_cell(found.accuracy, found.low, found.high))
    return [WHAT[kind], *cells, f"{chance:.0%}", "100%"]


def _cell(share: float, low: float, high: float) -> str:
    return f"{share:.0%} ({low:.0%}–{high:.0%})"
