"""A conversation with a saved run.

::

    talk = open_chat("runs/chat", system="Be brief.")
    print(talk.ask("Hello"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exnihilo.errors import UsageError
from exnihilo.infer.chat import Conversation
from exnihilo.interop import hf
from exnihilo.predictions.run import load_run


def open_chat(run: str | Path, *, system: str = "", device: str = "cpu", **sampling: Any) -> Conversation:
    """A conversation with a run, a checkpoint of it, or a Hugging Face folder with a ChatML template.

    Args:
        run: of a type that is trained on conversations: sft, preference, rlvr, or the recipe chat.
        system: what the system message says.
        sampling: as for `Conversation`: max_new_tokens, temperature, top_k, top_p, min_p, seed.

    Raises:
        UsageError: a base model, an encoder, or a reward model: it does not answer; says what to do.
        CodecError: the tokenizer has no tokens that mark turns.
    """
    loaded = load_run(run, device=device)
    loaded.check_writes()
    if hf.chat_of(loaded.codec, loaded.model.config, loaded.objective) is None:
        name = (loaded.objective or {}).get("objective")
        raise UsageError(
            f"{loaded.path} is a base model" + (f" (trained by {name})" if name else "") + ": it goes on "
            "with a text and was not taught to answer",
            expected="a run of sft, preference, rlvr or chat, or a folder with a ChatML template",
            next=f'exnihilo train sft init={run} data=PATH, or exnihilo sample {run} "TEXT"',
        )
    return Conversation(loaded.model, loaded.codec, system=system, **sampling)
