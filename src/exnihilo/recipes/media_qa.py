"""Recipe ``media_qa``: one decoder that reads a picture or hears a sound, and answers in words.

``exnihilo train media_qa data=questions.jsonl`` (columns picture, sound, question, answer; a row may lack
the picture, the sound, or both). With ``init=`` a decoder of text learns to see and to hear.
"""

from __future__ import annotations

from exnihilo.config import BatchConfig, CodecConfig, EvalConfig, ModelConfig, RunConfig
from exnihilo.recipes._hearing import AUGMENT, hearing


def recipe() -> RunConfig:
    """Questions about pictures and sounds; without ``data=`` about the embedded world's, without a budget
    it takes 8 epochs."""
    return hearing(
        "media_qa",
        augment=AUGMENT,
        epochs=8,
        codec=CodecConfig(kind="bpe", vocab_size=1024),
        model=ModelConfig(family="qwen3", depth=4, width=128, heads=4, context=256),
        batch=BatchConfig(tokens=2048),
        eval=EvalConfig(samples=0),  # what it writes without a picture and a question says nothing
    )
