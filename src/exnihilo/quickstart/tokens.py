"""Stage: the tokenizer, trained from scratch on the training split."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from exnihilo import config_layers
from exnihilo.quickstart.chain import Chain

DOCUMENTS = 12_000  # of the world: about 1.7 million tokens
HELD_OUT = 600  # documents of the world to validate on, which no training run sees
WORLD_VOCABULARY = 2048
SAMPLE = 20_000_000  # bytes a tokenizer is trained on
FOLDER = "tokenizer"  # in the run folder
HELD_OUT_FILE = "held-out.jsonl"  # likewise
EXAMPLES = "examples"  # likewise: files that stages learn from
TALKS = 6_000  # of people of the world, read in pretraining beside the stories: about 0.3 million tokens


def settings(chain: Chain, vocabulary: int) -> dict[str, Any]:
    """What the quickstart changes in the recipe: a shape and a batch that learn something in two minutes."""
    own = {} if not chain.world else {"val": chain.run / HELD_OUT_FILE, "data.val_fraction": 0.0}
    return {
        **own,
        "run": chain.base_run,
        "seed": chain.seed,
        "device": chain.device,
        "data": [f"world:{DOCUMENTS}", str(talks(chain))] if chain.world else chain.data,
        "codec.vocab_size": vocabulary,
        "model.depth": 3,
        "model.width": 128,
        "model.heads": 4,
        "batch.tokens": 2048,
        "optim.adamw_lr": 0.02,  # a short run: embeddings must move far in a few hundred steps
        "eval.samples": 1,
        "eval.tokens": 8192,
        "minutes": chain.minutes or 2.0,
    }


def vocabulary(size: int) -> int:
    """Ids for a corpus of `size` bytes: enough that words are tokens, few enough that each is seen often.

    >>> vocabulary(200_000), vocabulary(2_000_000), vocabulary(50_000_000)
    (512, 2048, 4096)
    """
    for least, ids in ((10_000_000, 4096), (1_500_000, 2048), (500_000, 1024)):
        if size >= least:
            return ids
    return 512


def write_held_out(chain: Chain) -> None:
    """Documents of the world that training never sees, as a file beside the run."""
    import json

    from exnihilo.world import HELD_OUT as FIRST
    from exnihilo.world import World

    path = chain.run / HELD_OUT_FILE
    documents = World(0).stories(HELD_OUT, start=FIRST)
    path.write_text("".join(json.dumps({"text": doc.text}) + "\n" for doc in documents), encoding="utf-8")


def talks(chain: Chain) -> Path:
    """Where the talk of people of the world stands: text of pretraining in which no manner is preferred."""
    return chain.run / EXAMPLES / "talks.jsonl"


def write_talks(chain: Chain) -> None:
    """People who ask each other and answer, politely in half of the answers, rudely in the others."""
    from exnihilo.quickstart.measures import school
    from exnihilo.quickstart.post import write_rows
    from exnihilo.world.lessons import drawn

    write_rows(talks(chain), ({"text": text} for text in drawn(school().talk, TALKS, chain.seed, 0x7A1)))


def tokenizer(chain: Chain) -> None:
    """Train a byte-level BPE on the training split."""
    from exnihilo import codec as codecs
    from exnihilo import environment
    from exnihilo.data import settle, texts
    from exnihilo.train.progress import shown
    from exnihilo.train.runfolder import open_folder

    source = "the embedded world, a generator of little stories" if chain.world else str(chain.data)
    what = "a model that answers" if chain.world else "a base model"
    chain.say(f"From random weights to {what}, on {source}; {environment.cores()} CPU cores.")
    chain.head("1  tokenizer")
    open_folder(chain.run, resume=False, force=chain.force).release()  # refuses a folder that holds a run
    if chain.world:
        write_held_out(chain)
        write_talks(chain)
    began = time.perf_counter()
    config, _ = config_layers.load("gpt", settings=settings(chain, WORLD_VOCABULARY))
    config = config.model_copy(update={"data": settle(config.data)})
    with shown(True) as display:
        display.start("read", unit="bytes")
        sample: list[str] = []
        size = 0
        for text in texts(config.data, limit_bytes=SAMPLE // 10 if chain.world else SAMPLE):
            sample.append(text)
            size += len(text.encode("utf-8", "replace"))
        display.advance(size)
        ids = WORLD_VOCABULARY if chain.world else vocabulary(size)
        chain.codec = codecs.train(config.codec.model_copy(update={"vocab_size": ids}), sample, display)
    chain.codec.save(chain.run / FOLDER)
    seconds = time.perf_counter() - began
    example = next((text for text in sample if text.strip()), "")[:60]
    pieces = [chain.codec.decode([i]) for i in chain.codec.encode(example)]
    chain.say(
        f"{chain.codec.vocab_size} tokens, trained in {seconds:.1f} s; a text as the model will see it:"
    )
    chain.say("  " + "|".join(pieces).replace("\n", "⏎"))
    chain.figures.update(vocabulary=chain.codec.vocab_size, tokenizer_seconds=round(seconds, 2))
