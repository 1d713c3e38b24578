"""lm-evaluation-harness: our adapter against the harness's own, suites against its tasks."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from exnihilo.codec.base import Codec
from exnihilo.codec.chat import Chat
from exnihilo.config import DataConfig
from exnihilo.errors import DataError, MissingExtra, UsageError
from exnihilo.eval import harness
from exnihilo.eval.suites import Asked, create
from exnihilo.model import Model

PASSAGES = [
    f"The old fox lives in a small den by the {word}" for word in ("river", "ball", "den", "fox", "end")
]
QUESTIONS = [
    {"question": "What is 3 + 4?", "choices": ["7", "three", "the old fox"], "answer": 0},
    {"question": "Who had the ball?", "choices": ["Mia", "Tom"], "answer": 1},
    {"ctx": "Mia gave the red", "endings": ["ball to Tom.", "river.", "den in the end."], "label": 0},
]


@pytest.fixture
def lm_eval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("lm_eval", reason="lm-eval is not installed")
        import datasets.config

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        yield package


def written(path: Path, records: list[Any]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return str(path)


def read(path: str) -> DataConfig:
    return DataConfig.model_validate({"sources": path})


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, given, n) for n, given in enumerate(arguments)]  # type: ignore[arg-type]


def test_answers_are_those_of_the_same_weights_in_transformers(
    lm_eval: Any, little: Model, little_codec: Codec, little_folder: Path
) -> None:
    from lm_eval.models import huggingface

    base: Any = huggingface.HFLM

    class WithBos(base):
        """The harness's own adapter, which would leave BOS out for this tokenizer."""

        bos = True

        def tok_encode(self, string: str, add_special_tokens: Any = None, **more: Any) -> list[int]:
            ids = self.tokenizer.encode(string, add_special_tokens=False)
            cut = more.get("left_truncate_len")
            ids = [self.prefix_token_id, *ids] if self.bos and add_special_tokens is not False else ids
            return ids[-cut:] if cut else ids

        def tok_batch_encode(self, strings: Any, left_truncate_len: Any = None, **more: Any) -> Any:
            import torch

            rows = [self.tok_encode(text, left_truncate_len=left_truncate_len) for text in strings]
            assert len(rows) == 1
            return torch.tensor(rows), torch.ones(1, len(rows[0]), dtype=torch.long)

    theirs: Any = cast(Any, WithBos)(
        str(little_folder), device="cpu", batch_size=1, max_length=little.config.context
    )
    ours = cast(Any, harness.adapter(little_folder))
    assert ours.prefix_token_id == theirs.prefix_token_id
    pairs = [("The old fox", " lives in"), ("", "The old"), ("Mia had ", "the ball."), ("x y " * 40, " ball")]
    pairs += [
        ("The", " river " * 9),
        ("Question: Who?\nAnswer:", " Tom"),
        ("Question: Who?\nAnswer:", " Mia"),
    ]
    asked = requests("loglikelihood", *pairs)
    found, expected = ours.loglikelihood(asked), theirs.loglikelihood(asked)
    assert [x for x, _ in found] == pytest.approx([x for x, _ in expected], abs=1e-3)
    assert [x for _, x in found] == [bool(x) for _, x in expected]
    theirs.bos = False  # it is the prefix of a whole text already, and not to be predicted
    texts = [(text,) for text in ("The old fox lives in a den. " * 12, "Mia", "Tom had the red ball.")]
    asked = requests("loglikelihood_rolling", *texts)
    assert ours.loglikelihood_rolling(asked) == pytest.approx(theirs.loglikelihood_rolling(asked), abs=1e-2)
    theirs.bos = True
    greedy = {"until": ["\n", "ball"], "do_sample": False, "max_gen_toks": 12}
    prompts = [("The old fox", greedy), ("x y " * 40, greedy), ("Mia", {**greedy, "until": ["zzz"]})]
    asked = requests("generate_until", *prompts)
    assert ours.generate_until(asked) == theirs.generate_until(asked)
    assert sum(ours.notes.values()) == 2


def test_suites_and_tasks_of_the_harness_agree(
    lm_eval: Any, little: Model, little_codec: Codec, tmp_path: Path
) -> None:
    texts = [{"text": text * n} for n, text in enumerate(PASSAGES, 1)]
    files = {
        "lambada": written(tmp_path / "p.jsonl", [{"text": text} for text in PASSAGES]),
        "multiple_choice": written(tmp_path / "q.jsonl", QUESTIONS),
        "bits_per_byte": written(tmp_path / "t.jsonl", texts),
    }
    tasks = ",".join(f"{name}={path}" for name, path in files.items())
    found, items = harness.evaluate_tasks(little, little_codec, tasks)
    own = {
        name: create(name)
        .run(Asked(little, little_codec, DataConfig.model_validate({"sources": path})))
        .figures
        for name, path in files.items()
    }
    theirs = found["local_lambada"]
    assert theirs["acc"] == own["lambada"]["accuracy"] and theirs["examples"] == 5
    assert theirs["perplexity"] == pytest.approx(own["lambada"]["perplexity"], rel=1e-4)
    theirs, ours = found["local_multiple_choice"], own["multiple_choice"]
    assert theirs["acc"] == ours["accuracy"] and theirs["acc_norm"] == ours["accuracy_norm"]
    assert theirs["acc_low"] <= theirs["acc"] <= theirs["acc_high"]
    bits = found["local_bits_per_byte"]["bits_per_byte"]
    assert bits == pytest.approx(own["bits_per_byte"]["bits_per_byte"], rel=1e-5)
    assert len(items) == 5 + 3 + 5 and json.dumps(items)


def test_problems_are_asked_and_drawn_with_the_runs_own_engine(
    lm_eval: Any, little: Model, little_codec: Codec, tmp_path: Path
) -> None:
    rows = [{"question": f"What is {n} + 4?", "answer": f"#### {n + 4}"} for n in range(4)]
    path = written(tmp_path / "g.jsonl", rows)
    found, items = harness.evaluate_tasks(
        little, little_codec, [f"gsm8k={path}"], shots=0, max_examples=3, seed=1
    )
    told = found["local_gsm8k"]
    assert told["examples"] == 3 and {"exact_match:strict-match", "exact_match:flexible-extract"} <= set(told)
    asked = Asked(little, little_codec, read(path), max_examples=3, max_new_tokens=24)
    assert len(create("gsm8k").run(asked).items) == 3 and len(items) == 6  # one a filter


def test_a_users_own_task_is_found_in_his_folder(
    lm_eval: Any, little: Model, little_codec: Codec, tmp_path: Path
) -> None:
    path = written(tmp_path / "p.jsonl", [{"context": "The old", "target": " fox"}] * 3)
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {path}\noutput_type: loglikelihood\ntest_split: test\ndoc_to_text: '{{{{context}}}}'\n"
        "doc_to_target: '{{target}}'\ntarget_delimiter: ''\nmetric_list:\n  - metric: acc\n"
        "    aggregation: mean\n    higher_is_better: true\n"
    )
    found, _ = harness.evaluate_tasks(little, little_codec, "mine", include=folder)
    assert found["mine"]["examples"] == 3 and found["mine"]["acc"] in (0.0, 1.0)


def test_turns_are_the_ids_of_the_chat_codec(lm_eval: Any, little: Model, little_codec: Codec) -> None:
    from exnihilo.eval._harness import RunLM

    chat = Chat(little_codec)
    lm = RunLM(little, little_codec, chat=chat)
    turns = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who had\nthe ball? "},
        {"role": "assistant", "content": "Tom"}, {"role": "user", "content": "Where?"},
    ]  # fmt: skip
    assert lm.tok_encode(lm.apply_chat_template(turns)) == chat.prompt(turns)
    plain = RunLM(little, little_codec)
    spelled = plain.tok_encode("<|im_end|>")
    assert little_codec.token_id("<|im_end|>") not in spelled
    with pytest.raises(UsageError, match="turns"):
        plain.apply_chat_template(turns)


def test_settings_of_tasks_are_obeyed_or_refused(lm_eval: Any, little: Model, little_codec: Codec) -> None:
    from exnihilo.eval._harness import RunLM

    lm = RunLM(little, little_codec)
    limit, options = lm._options({"until": "x", "max_new_tokens": 5, "do_sample": True, "top_p": 0.9})
    assert (
        limit == 5 and options["stop"] == ["x"] and options["temperature"] == 1.0 and options["top_p"] == 0.9
    )
    assert lm._options({"temperature": 0.7, "do_sample": False})[1]["temperature"] == 0.0
    assert lm._options({})[0] == little.config.context // 2  # 256 are more than the context has
    for wrong in ({"num_beams": 4}, {"diversity_penalty": 1.0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            lm._options(wrong)
    drawn = requests(
        "generate_until", *[("The", {"do_sample": True, "max_gen_toks": 6, "until": ["zz"]})] * 4
    )
    texts = lm.generate_until(drawn)
    assert len(set(texts)) > 1 and lm.generate_until(drawn) == texts


def test_what_cannot_be_had_is_said(
    lm_eval: Any, little: Model, little_codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no tasks"):
        harness.evaluate_tasks(little, little_codec, " , ")
    with pytest.raises(UsageError, match="lambada=FILE"):
        harness.evaluate_tasks(little, little_codec, "lambda=x.jsonl")
    with pytest.raises(DataError, match="no such file"):
        harness.evaluate_tasks(little, little_codec, f"lambada={tmp_path / 'none.jsonl'}")
    path = written(tmp_path / "p.jsonl", [{"text": "one"}, {"a": 1}])
    with pytest.raises(DataError, match="nothing for lambada.*fewer than two words"):
        harness.evaluate_tasks(little, little_codec, f"lambada={path}")
    with pytest.raises(UsageError, match="include"):
        harness.evaluate_tasks(little, little_codec, "mine", include=tmp_path / "none")
    for error, kind, word in (
        (ConnectionError("no route"), DataError, "cannot be had"),
        (ValueError("confirm_run_unsafe_code is False"), UsageError, "sandbox"),
        (KeyError("x"), DataError, "failed"),
    ):
        told = harness._told(error, "t")
        assert isinstance(told, kind) and word in str(told)


def test_without_the_package_its_extra_is_named(
    little: Model, little_codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    with pytest.raises(MissingExtra, match=r"exnihilo\[eval\]"):
        harness.evaluate_tasks(little, little_codec, "arc_easy")
