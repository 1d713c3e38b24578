"""Exports are proved on the run's own data, whatever it was trained for."""

from __future__ import annotations

from pathlib import Path

import pytest

from exnihilo import codec as codecs
from exnihilo.config import CodecConfig
from exnihilo.interop.inputs import HARD, real_inputs

BYTES = codecs.train(CodecConfig(kind="bytes"), ["text"])


@pytest.mark.parametrize("objective", ["causal_lm", "sft", "span_qa", "token_tagging", "mix", None])
def test_data_is_read_as_the_objective_reads_it(objective: str | None, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[data]\nsources = [{path = "world:20"}]\n')
    texts, where = real_inputs(tmp_path, BYTES, None if objective is None else {"objective": objective})
    assert where == "8 examples of the run's own data" and len(texts) == 8
    assert all(1 < len(text) <= 4000 for text in texts) and len(set(texts)) == 8


def test_conversations_are_their_messages(tmp_path: Path) -> None:
    (tmp_path / "talk.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}\n'
    )
    (tmp_path / "config.toml").write_text(f'[data]\nsources = [{{path = "{tmp_path}/talk.jsonl"}}]\n')
    assert real_inputs(tmp_path, BYTES, {"objective": "sft"})[0] == ["Hi.\nHello."]


def test_without_data_the_hard_corpus_stands_in(tmp_path: Path) -> None:
    assert real_inputs(tmp_path, BYTES) == (list(HARD), "built-in texts")
    (tmp_path / "config.toml").write_text('[data]\nsources = [{path = "gone.txt"}]\n')
    assert real_inputs(tmp_path, BYTES, {"objective": "sft"}) == (list(HARD), "built-in texts")
