"""What makes a Hugging Face folder one of sentence-transformers: modules.json, the pooling, the length.

    save(folder, config, {"objective": "embeddings", "options": {"pooling": "mean", "normalize": True}})
    SentenceTransformer(folder).encode(["a text"])      # its vectors are those of `Predictor`

Format: sentence-transformers 2.2 .. 5 (https://www.sbert.net).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exnihilo.config import ModelConfig
from exnihilo.errors import ModelError
from exnihilo.interop.files import write, write_json

_MODES = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
}
_FURTHER = ("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken")


def save(folder: Path, config: ModelConfig, objective: Mapping[str, Any] | None) -> None:
    """Write the files beside those of transformers.

    Args:
        folder: made if absent.
        config: of the encoder.
        objective: as in objective.json; its options ``pooling`` (mean, cls, max; default mean) and
            ``normalize`` (default true: the objective `embeddings` gives unit vectors) are written.
    """
    options = (objective or {}).get("options") or {}
    pooling, normalize = options.get("pooling", "mean"), bool(options.get("normalize", True))
    if pooling not in _MODES:
        raise ModelError(f"pooling is {pooling!r}", expected=f"one of {', '.join(_MODES)}")
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if normalize:
        modules.append(("2_Normalize", "Normalize"))
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    pooled: dict[str, Any] = {"word_embedding_dimension": config.width}
    pooled |= {key: name == pooling for name, key in _MODES.items()} | dict.fromkeys(_FURTHER, False)
    write(folder / "1_Pooling", {"config.json": write_json({**pooled, "include_prompt": True})})
    if normalize:
        write(folder / "2_Normalize", {".gitkeep": lambda path: None})
    write(
        folder,
        {
            "sentence_bert_config.json": write_json(
                {"max_seq_length": config.context, "do_lower_case": False}
            ),
            "modules.json": write_json(listed),
        },
    )
