"""Stages: the data, and pretraining from random weights."""

from __future__ import annotations

import math

from exnihilo import config_layers, log
from exnihilo.quickstart.chain import CLOSING, LEAST, SCORES, TOTAL, TOTAL_OWN, Chain
from exnihilo.quickstart.tokens import FOLDER, settings


def data(chain: Chain) -> None:
    """Encode and pack the data; for the world, write the held-out documents and work out the entropy
    floor."""
    from exnihilo.measure import prepare_for
    from exnihilo.train.progress import shown

    assert chain.codec is not None
    chain.head("2  data")
    chosen = settings(chain, chain.codec.vocab_size)
    chosen["codec.path"] = chain.run / FOLDER
    chain.config, _ = config_layers.load("gpt", settings=chosen)
    with shown(True) as display, log.listen(lambda text: None):  # training will say the same again
        _, chain.splits = prepare_for(chain.config, display, chain.codec)
    train, val = chain.splits.train, chain.splits.val
    chain.say(f"{train.tokens:,} tokens to train on, {val.tokens if val else 0:,} held out")
    chain.figures.update(
        train_tokens=train.tokens,
        held_out_tokens=val.tokens if val else 0,
        chance_nats=math.log(chain.codec.vocab_size),
    )
    if chain.world:
        floor(chain)


def floor(chain: Chain) -> None:
    """The entropy of the held-out documents under the world itself, in nats a token: no model can be
    below."""
    from exnihilo.quickstart.tokens import HELD_OUT
    from exnihilo.world import HELD_OUT as FIRST
    from exnihilo.world import World

    assert chain.codec is not None
    world = World(0)
    found = world.entropy_floor(HELD_OUT, FIRST)
    texts = [doc.text for doc in world.stories(HELD_OUT, start=FIRST)]
    tokens = sum(len(ids) + 1 for ids in chain.codec.encode_batch(texts))  # each with its end mark
    chain.figures.update(
        floor_nats=found.per_token(tokens),
        floor_bits_per_byte=found.bits_per_byte,
        floor_documents=HELD_OUT,
    )
    chain.say(
        f"entropy floor of the held-out stories: {found.per_token(tokens):.3f} nats a token; "
        f"knowing nothing: ln {chain.codec.vocab_size} = {math.log(chain.codec.vocab_size):.2f}"
    )


def pretrain(chain: Chain) -> None:
    """Train on next-token prediction; the loop shows validation losses and texts on the way."""
    from exnihilo.interop.load import load
    from exnihilo.model import build
    from exnihilo.train import run

    chain.head("3  pretraining, from random weights")
    minutes = chain.minutes
    if minutes is None:
        minutes = max(LEAST, left(chain)) / 60
    chosen = settings(chain, chain.config.codec.vocab_size)
    chosen.update({"codec.path": chain.run / FOLDER, "minutes": round(minutes, 3)})
    chain.config, origins = config_layers.load("gpt", settings=chosen)
    origins = {key: "quickstart" if value == "python" else value for key, value in origins.items()}
    chain.result = run(chain.config, origins=origins)
    if chain.result.interrupted:
        return
    chain.base = load(chain.base_run).model
    chain.random = build(chain.base.config, seed=chain.seed).eval()  # the weights that training began with
    result = chain.result
    chain.figures.update(
        parameters=sum({p.data_ptr(): p.numel() for p in chain.base.parameters()}.values()),
        steps=result.step,
        tokens=result.tokens,
        train_seconds=round(result.seconds, 1),
        loss=result.loss,
        val_loss=result.val_loss,
        val_bpb=result.bpb,
        run=str(chain.run),
    )


def left(chain: Chain) -> float:
    """Seconds that pretraining may take."""
    from exnihilo.quickstart.post import planned

    if not chain.world:
        return TOTAL_OWN - SCORES["own"] - CLOSING - chain.seconds
    return TOTAL - SCORES["world"] - planned() - CLOSING - chain.seconds
