"""The example of docs/modalities.md, as it stands there: it trains, predicts, and the trunk knows nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exnihilo.codec.marks import Marks
from exnihilo.config import ModelConfig
from exnihilo.data import collate
from exnihilo.infer.predict import Predictor
from exnihilo.model import build
from exnihilo.objective import registry

DOC = Path(__file__).parents[2] / "docs" / "modalities.md"


def test_a_modality_is_one_file_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    [code] = [c for c in re.findall(r"```python\n(.*?)```", DOC.read_text(), re.S) if "class Dna" in c]
    (tmp_path / "bio").mkdir()
    (tmp_path / "bio" / "__init__.py").write_text("")
    (tmp_path / "bio" / "dna.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    rng, codec = np.random.default_rng(0), Marks.make()
    examples = []
    for i in range(24):  # half of them hold TATAAA, as promoters do
        letters = "".join(rng.choice(list("CG"), 30))
        at = int(rng.integers(0, 24))
        text = letters[:at] + "TATAAA" + letters[at:24] if i % 2 else letters
        examples.append({"text": text, "label": "promoter" if i % 2 else "none"})
    first = registry.create("bio.dna", length=32)
    objective: Any = registry.create("bio.dna", length=32, facts=first.survey(examples))
    items = [item for [item] in objective.encode_many(examples, codec)]
    columns = collate.of_items(
        [[(i, 0, len(x["tokens"]))] for i, x in enumerate(items)], items, row=11, pad_id=0
    )
    batch = {k: torch.from_numpy(v) for k, v in columns.items()}
    settings = objective.model_settings
    config = ModelConfig(
        family="modernbert", depth=2, width=32, heads=2, context=32, vocab_size=codec.vocab_size,
        inputs=settings["inputs"], labels=settings["labels"],
    )  # fmt: skip
    model = build(config, heads=objective.heads).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        (objective.sums(model, batch)["ce"] / objective.counts(batch)["ce"]).backward()
        optimizer.step()
    found = Predictor(model.eval(), codec, objective).predict([e["text"] for e in examples])
    assert objective.score(found, examples)["accuracy"] == 1.0
