"""Recipe ``sft``: a base model learns to answer instructions and to stop, from conversations.

``exnihilo train sft init=runs/base data=chats.jsonl``. Formats are detected (OpenAI messages, ShareGPT,
Alpaca, prompt and completion), the loss is on the assistant's turns. ``tune.lora.rank=8`` trains adapters
alone, ``options.neftune=5`` adds noise to the embeddings. Without ``init=`` a new model starts from random
weights.
"""

from __future__ import annotations

from exnihilo.config import RunConfig, ScheduleConfig
from exnihilo.recipes._post import post


def recipe() -> RunConfig:
    """Supervised fine-tuning; without ``data=`` it reads the embedded world, without a budget
    it takes 3 epochs."""
    return post("sft", schedule=ScheduleConfig(name="linear", warmup=0.05), epochs=3)
