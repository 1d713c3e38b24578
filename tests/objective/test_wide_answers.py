"""An answer longer than what two windows share may be whole in none: it is no question without an answer."""

from __future__ import annotations

from exnihilo import codec as codecs
from exnihilo import log
from exnihilo.config import CodecConfig
from exnihilo.objective import registry


def test_an_answer_that_no_window_holds_whole_is_skipped_and_said():
    context = "a " * 10 + "b" * 60 + " c" * 10
    codec = codecs.train(CodecConfig(kind="chars"), [context + "What?"])
    objective = registry.create("span_qa", {"max_question": 4}, length=32)
    wide = {"question": "What?", "context": context, "answers": [{"text": "b" * 60, "start": 20}]}
    fits = {**wide, "answers": [{"text": "a", "start": 18}]}
    said: list[str] = []
    with log.listen(said.append):
        skipped, kept = objective.encode_many([wide, fits], codec)
    assert skipped == [] and kept
    assert len(said) == 1 and "1 questions skipped: no window of 32 positions" in said[0]
