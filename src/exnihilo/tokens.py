"""The tokenizer verb: train one on raw text, or look into one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exnihilo.errors import CodecError, UsageError

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.config import RunConfig


def train_tokenizer(config: RunConfig, out: Path) -> Codec:
    """Train ``config.codec`` on the training split of ``config.data`` and write it to the folder `out`.

    Raises:
        UsageError: `out` holds a tokenizer already: one that models were trained with must not change.
    """
    from exnihilo import codec as codecs
    from exnihilo.objective import registry
    from exnihilo.train import facts
    from exnihilo.train.progress import shown

    if (out / "tokenizer.json").exists():
        raise UsageError(
            f"{out} holds a tokenizer already",
            expected="a new folder: models trained with that one would no longer fit",
            next="choose another out=DIR",
        )
    with shown(True) as display:
        objective = registry.create(config.objective, config.options)
        codec = codecs.train(config.codec, facts.texts(config, objective), display)
    try:
        codec.save(out)
    except OSError as error:
        raise CodecError(
            f"{out} cannot be written: {error}", expected="a writable folder", next="out=DIR"
        ) from error
    return codec


def read_tokenizer(path: Path) -> Codec:
    """The tokenizer of a folder: a tokenizer's own, a run's or a Hugging Face model's."""
    from exnihilo import codec as codecs

    return codecs.load(path)


def pieces(codec: Codec, ids: Sequence[int]) -> list[str]:
    """The text of each id alone; bytes of a character that is cut across ids show as U+FFFD."""
    return [codec.decode([number], skip_special=False) for number in ids]
