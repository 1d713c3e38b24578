"""Stages of the encoder's quickstart: the tokenizer, pretraining, and the gaps it fills as it learns.

Key: V ids of the vocabulary
"""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exnihilo import config_layers
from exnihilo.quickstart import encoder
from exnihilo.quickstart.chain import LEAST, Chain
from exnihilo.quickstart.tokens import FOLDER, HELD_OUT_FILE, write_held_out

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

DOCUMENTS = 12_000  # of the world: about 1.7 million tokens
VOCABULARY = 2048
SAMPLE = 2_000_000  # bytes the tokenizer is trained on
CHECKPOINTS = 50  # steps between the weights whose gaps are shown
SHOWN = 4  # of them, and so many texts
GAPS = 400  # held-out texts with one word masked, to count the right ones
WORD = re.compile(r"[A-Za-z]{3,}")


def settings(chain: Chain) -> dict[str, Any]:
    """What the quickstart changes in the recipe: a small network, and little of the world."""
    return {
        "run": chain.run,
        "seed": chain.seed,
        "device": chain.device,
        "data": f"world:{DOCUMENTS}",
        "val": chain.run / HELD_OUT_FILE,
        "data.val_fraction": 0.0,
        "codec.vocab_size": VOCABULARY,
        "model.preset": "bert-tiny",
        "model.family": "bert",
        "batch.tokens": 2048,
        # a short run: more targets a row, a lower rate beside Muon's, and the few pairs of a step, a noisy
        # gradient, weighed less; with the recipe's own values the loss stays near that of word frequencies
        "options": {"masked_lm": {"rate": 0.3}, "weights": {"next_sentence": 0.2}},
        "optim.adamw_lr": 0.002,
        "eval.tokens": 16_384,
        "checkpoint.every": CHECKPOINTS,
        "checkpoint.keep": 1000,  # the gaps are filled from them; then they go
        "checkpoint.best": False,
        "minutes": chain.minutes or 2.0,
    }


def tokenizer(chain: Chain) -> None:
    """Train a WordPiece on the training split."""
    from exnihilo import codec as codecs
    from exnihilo import environment
    from exnihilo.data import settle, texts
    from exnihilo.train.progress import shown
    from exnihilo.train.runfolder import open_folder

    chain.say(
        "From random weights to an encoder and four trained tasks, on the embedded world, a generator of "
        f"little stories; {environment.cores()} CPU cores."
    )
    chain.head("1  tokenizer")
    open_folder(chain.run, resume=False, force=chain.force).release()  # refuses a folder that holds a run
    write_held_out(chain)
    began = time.perf_counter()
    config, _ = config_layers.load("bert", settings=settings(chain))
    config = config.model_copy(update={"data": settle(config.data)})
    with shown(True) as display:
        display.start("read", unit="bytes")
        sample = list(texts(config.data, limit_bytes=SAMPLE))
        display.stop()
        chain.codec = codecs.train(config.codec, sample, display)
    chain.codec.save(chain.run / FOLDER)
    seconds = time.perf_counter() - began
    example = next((text for text in sample if text.strip()), "")[:60]
    pieces = [chain.codec.decode([i], skip_special=False) for i in chain.codec.encode(example)]
    chain.say(
        f"{chain.codec.vocab_size} pieces (WordPiece, lower case), trained in {seconds:.1f} s; a text as the "
        "model will see it:"
    )
    chain.say("  " + "|".join(pieces))
    chain.figures.update(vocabulary=chain.codec.vocab_size, tokenizer_seconds=round(seconds, 2))


def pretrain(chain: Chain) -> None:
    """Masked tokens and next sentences together; the loop shows both losses on the way."""
    from exnihilo.interop.load import load
    from exnihilo.model import build
    from exnihilo.train import run

    chain.head("2  pretraining, from random weights: masked tokens (MLM) and next sentences (NSP)")
    minutes = chain.minutes
    if minutes is None:
        left = encoder.TOTAL - encoder.TASKS_SECONDS - encoder.CLOSING - chain.seconds
        minutes = max(LEAST, left) / 60
    chosen = {**settings(chain), "codec.path": chain.run / FOLDER, "minutes": round(minutes, 3)}
    chain.config, origins = config_layers.load("bert", settings=chosen)
    origins = {key: "quickstart" if value == "python" else value for key, value in origins.items()}
    chain.result = result = run(chain.config, origins=origins)
    if result.interrupted:
        return
    chain.base = load(chain.run).model
    chain.random = build(chain.base.config, seed=chain.seed).eval()  # the weights that training began with
    chain.figures.update(
        parameters=sum({p.data_ptr(): p.numel() for p in chain.base.parameters()}.values()),
        steps=result.step,
        tokens=result.tokens,
        train_seconds=round(result.seconds, 1),
        run=str(chain.run),
        **progress(chain),
    )


def progress(chain: Chain) -> dict[str, Any]:
    """Figures of the validations on the way; says them as a table."""
    from exnihilo.quickstart.closing import show, spread
    from exnihilo.report.folder import open_run

    val, chance = open_run(chain.run).val, math.log(chain.figures["vocabulary"])
    rows = [
        {"step": int(step), "mlm": mlm, "next_accuracy": right}
        for step, mlm, right in zip(val["step"], val["val_mlm"], val["val_next_accuracy"], strict=True)
    ]
    table = {
        "title": "Pretraining, on held-out stories",
        "head": ["step", "MLM, nats a masked token", "NSP, right"],
        "rows": [
            ["knows nothing", f"{chance:.3f} = ln {chain.figures['vocabulary']}", "50%"],
            *([f"{r['step']:,}", f"{r['mlm']:.3f}", f"{r['next_accuracy']:.1%}"] for r in spread(rows, 6)),
        ],
    }
    show(chain, table)
    chain.tables.append(table)
    return {"chance_nats": chance, "mlm": rows[-1]["mlm"], "next_accuracy": rows[-1]["next_accuracy"],
            "progress": rows}  # fmt: skip


def gaps(chain: Chain) -> None:
    """What was put into [MASK], at random weights and as it learned; then the checkpoints go."""
    from exnihilo.infer.predict import Predictor
    from exnihilo.interop.load import load
    from exnihilo.objective import registry
    from exnihilo.quickstart.closing import show, spread

    assert chain.codec is not None and chain.base is not None and chain.random is not None
    chain.head("3  what it put into [MASK], as it learned")
    asked = masked(_paragraphs(chain.run), chain.codec)
    objective = registry.create(
        chain.config.objective, chain.config.options, length=chain.base.config.context
    )
    folder = chain.run / "checkpoints"
    kept = [path for path in sorted(folder.glob("step-*")) if _step(path) < chain.figures["steps"]]
    models: list[Any] = [chain.random, *spread(kept, SHOWN)[1:], chain.base]
    names = ["random weights", *(f"step {_step(path):,}" for path in models[1:-1])]
    names.append(f"step {chain.figures['steps']:,}")
    texts = asked[:SHOWN]
    fills: list[list[str]] = [[f"{text}  ({word})"] for text, word in texts]
    shares = []
    for model in models:
        model = load(model).model if isinstance(model, Path) else model
        found = Predictor(model, chain.codec, objective).predict([text for text, _ in asked])
        best = [f["gaps"][0][0] for f in found]
        shares.append(sum(b["token"] == word for b, (_, word) in zip(best, asked, strict=True)) / len(asked))
        for row, guess in zip(fills, best, strict=False):
            row.append(f"{guess['token']} {guess['probability']:.0%}")
    fills.append([f"right, of {len(asked)} held-out texts", *(f"{share:.0%}" for share in shares)])
    table = {
        "title": "",
        "head": ["text (the word that was there)", *names],
        "rows": fills,
        "note": "the likeliest word, and how sure the model is of it",
    }
    show(chain, table)
    chain.tables.append({**table, "title": "What it put into [MASK]"})
    chain.figures["gaps"] = dict(zip(names, shares, strict=True))
    shutil.rmtree(folder, ignore_errors=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _paragraphs(run: Path) -> list[str]:
    """Sentences of held-out stories, two at a time, one place a story."""
    out = []
    for line in (run / HELD_OUT_FILE).read_text(encoding="utf-8").splitlines():
        body = json.loads(line)["text"].split("\n\n", 1)[-1].replace("\n", " ")
        sentences = re.split(r"(?<=[.!?]) (?=[A-Z])", body)
        if len(sentences) >= 4:
            out.append(" ".join(sentences[1:3]))
    return out


def masked(texts: list[str], codec: Codec, count: int | None = None) -> list[tuple[str, str]]:
    """(text with one word masked, the word as the tokenizer writes it): words that are one piece, each text's
    by its number, so that it is the same at every call."""
    out: list[tuple[str, str]] = []
    for number, text in enumerate(texts):
        words = [m for m in WORD.finditer(text) if len(codec.encode(m.group())) == 1]
        if not words:
            continue
        at = words[number % len(words)]
        word = codec.decode(codec.encode(at.group()))
        out.append((f"{text[: at.start()]}{codec.roles['mask']}{text[at.end() :]}", word))
        if len(out) == (count or GAPS):
            break
    return out
