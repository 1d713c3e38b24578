"""Objectives are found by listing their folder, and a user's own by a dotted path."""

from __future__ import annotations

from pathlib import Path

import pytest

from exnihilo.objective import registry

NAMES = registry.names()


def test_the_room_is_listed_and_typos_get_a_hint():
    assert {"causal_lm", "masked_lm", "next_sentence", "mix"} <= set(NAMES)
    assert not any(name.startswith("_") for name in NAMES)
    with pytest.raises(Exception, match="causal_lm"):
        registry.create("casual_lm")
    with pytest.raises(Exception, match="options"):
        registry.create("causal_lm", {"no_such_option": 1})


def test_a_users_own_objective_is_found_by_its_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = "class Mine(CausalLM):\n    weights = {'nll': 2.0}\n"
    (tmp_path / "my_own.py").write_text(f"from exnihilo.objective.causal_lm import CausalLM\n\n\n{own}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Exception, match="dotted"):
        registry.find("nothing.here")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "my_own.py").rename(tmp_path / "pack" / "mine.py")
    assert registry.create("pack.mine").weights == {"nll": 2.0}
