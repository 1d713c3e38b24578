"""From files to batches: against a plain re-computation from the files, and the laws of the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from exnihilo.data import Example, Item, Splits, collate, text
from exnihilo.data.packing import plan
from exnihilo.data.split import VAL, SplitPlan, document_hash

Prep = Callable[..., Splits]


def encode_plain(examples: Sequence[Example]) -> list[list[Item]]:
    return [[{"tokens": np.frombuffer(e["text"].encode(), np.uint8).astype(np.int64) + 3}] for e in examples]


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    folder = tmp_path / "stories"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for f in range(3):
        docs = [f"File {f} story {i}: " + "word " * int(rng.integers(1, 30)) for i in range(60)]
        (folder / f"{f}.txt").write_text("\n<|endoftext|>\n".join(docs))
    return folder


def test_a_piece_of_a_framed_item_stands_between_its_ends(prep: Prep, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    docs = ["".join(map(chr, rng.integers(97, 123, n))) for n in rng.integers(30, 45, 300)]
    (tmp_path / "a.txt").write_text("\n".join(docs))
    given = {"unit": "line", "val_fraction": 0.0, "context": 64, "lookahead": 0, "join": False}
    whole = prep(tmp_path / "a.txt", **given).train
    data = prep(tmp_path / "a.txt", **given, frame=(1, 1)).train
    assert whole.report.padded > 0.3 and data.report.padded < 0.05 and data.rows < 0.75 * whole.rows
    assert data.report.cropped == 0 < data.report.repeated < 0.05
    inside: dict[int, list[tuple[int, str]]] = {}
    batch = data.batch(np.arange(data.rows))
    starts = iter(data.parts[0].pack["start"].tolist())
    for row in range(data.rows):
        for number, item in enumerate(data.refs(row)):
            at = batch["doc"][row] == number
            tokens = batch["tokens"][row][at]
            assert tokens[0] == 1 and tokens[-1] == 2 and (tokens[1:-1] > 2).all()
            assert batch["pos"][row][at].tolist() == list(range(len(tokens)))
            piece = bytes((tokens[1:-1] - 3).astype(np.uint8)).decode()
            inside.setdefault(item.index, []).append((next(starts), piece))
    assert ["".join(piece for _, piece in sorted(inside[i])) for i in range(300)] == docs
    again = prep(tmp_path / "a.txt", **given, frame=(1, 1)).train
    assert again.hash == data.hash != whole.hash


def test_batches_hold_the_documents_of_their_split(prep: Prep, stories: Path) -> None:
    splits = prep(stories, val_fraction=0.2)
    texts = [
        d.strip("\n") for p in sorted(stories.iterdir()) for d in p.read_text().split("\n<|endoftext|>\n")
    ]
    split = SplitPlan("hash", 0.2)
    for side, dataset in enumerate((splits.train, splits.val)):
        assert dataset is not None
        wanted = [t for t in texts if split.side(document_hash({"text": t})) == side]
        ids = [np.array([1, *(b + 3 for b in t.encode()), 2]) for t in wanted]
        packed = plan(np.array([len(i) for i in ids]), 17)
        reference = collate.rows(
            [packed.pieces(r) for r in range(packed.rows)],
            lambda d, s, n, ids=ids: {"tokens": ids[d][s : s + n]},
            row=17,
            pad_id=0,
        )
        got = dataset.batch(np.arange(dataset.rows))
        for name in ("tokens", "doc", "pos"):
            np.testing.assert_array_equal(got[name], reference[name])
            assert got[name].dtype == reference[name].dtype
        assert got["source"].tolist() == [0] * dataset.rows and got["source"].dtype == np.int64
        assert dataset.documents == len(wanted) and dataset.tokens == sum(map(len, ids))
        assert dataset.report.bytes == sum(len(t.encode()) for t in wanted)
        assert dataset.report.padded == pytest.approx(packed.padded)
    assert splits.val is not None and splits.val.documents > 0 and VAL == 1


def test_rows_can_be_drawn_in_any_order_and_repeated(prep: Prep, stories: Path) -> None:
    train = prep(stories).train
    whole = train.batch(np.arange(train.rows))
    rows = np.random.default_rng(1).integers(0, train.rows, 50)
    some = train.batch(rows)
    for name, column in whole.items():
        np.testing.assert_array_equal(some[name], column[rows])
    assert train.batch(np.zeros(0, np.int64))["tokens"].shape == (0, 17)
    for bad in (-1, train.rows):
        with pytest.raises(IndexError):
            train.batch(np.array([bad]))


def test_refs_name_the_documents(prep: Prep, stories: Path) -> None:
    train = prep(stories, context=64).train
    batch = train.batch(np.arange(train.rows))
    for row in range(train.rows):
        refs = train.refs(row)
        assert len(refs) == batch["doc"][row].max() + 1
        for n, ref in enumerate(refs):
            document = (stories / ref.file).read_text().split("\n<|endoftext|>\n")[ref.index].strip("\n")
            assert document.startswith(ref.preview) and ref.source == "stories"
            shown = batch["tokens"][row][batch["doc"][row] == n]
            assert bytes(int(t) - 3 for t in shown if t >= 3).decode() in document


def test_a_long_document_in_parts_is_one_item(
    prep: Prep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exnihilo.data import sources

    bodies = [f"line {i} of a long document\n" * (1 + 10 * (i % 7 == 0)) for i in range(40)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": b}) + "\n" for b in bodies))
    whole = prep(path, cache=tmp_path / "c1")
    monkeypatch.setattr(text, "SEGMENT", 50)
    monkeypatch.setattr(sources, "SEGMENT", 50)
    parted = prep(path, cache=tmp_path / "c2")
    for a, b in ((whole.train, parted.train), (whole.val, parted.val)):
        assert a is not None and b is not None
        # a long document's side is decided by its first part, so compare what each holds by document
        assert {r for row in range(b.rows) for r in b.refs(row)}
        assert b.documents + 0 == len({(r.file, r.index) for row in range(b.rows) for r in b.refs(row)})
    assert whole.val and parted.val
    assert whole.train.tokens + whole.val.tokens == parted.train.tokens + parted.val.tokens
    for dataset in (parted.train, parted.val):
        store = dataset.parts[0].store
        ends = store["end"]
        for item in range(store.items):
            ids = store["tokens"][ends[item - 1] if item else 0 : ends[item]].astype(int)
            index = int(store["index"][item])
            assert ids.tolist() == [1, *(x + 3 for x in bodies[index].encode()), 2]


def test_one_file_is_cut_as_nanogpt_does(prep: Prep, tmp_path: Path) -> None:
    body = "".join(chr(97 + i % 26) + ("\n" if i % 50 == 49 else "") for i in range(10_000))
    path = tmp_path / "input.txt"
    path.write_text(body)
    splits = prep(path, val_fraction=0.1, encode=encode_plain, key="plain")
    n = int(len(body) * 0.9)
    assert splits.val is not None and splits.train.tokens == n and splits.val.tokens == len(body) - n
    rows = splits.val.batch(np.arange(splits.val.rows))
    spelt = "".join(chr(t - 3) for t in rows["tokens"][0])
    assert body[n:].startswith(spelt)
    assert (
        splits.report.sources[0].documents == 1 and "last 1,020 of 10,200" in splits.report.sources[0].split
    )
    assert any("held out" in line for line in splits.report.lines())


def test_further_columns_and_several_items_an_example(prep: Prep, stories: Path) -> None:
    def encode(examples: Sequence[Example]) -> list[list[Item]]:
        out: list[list[Item]] = []
        for e in examples:
            ids = np.frombuffer(e["text"].encode(), np.uint8).astype(np.int64)
            half = len(ids) // 2
            pieces = [ids[:half], ids[half:]] if len(ids) % 3 else [ids]
            out.append(
                [
                    {"tokens": p, "label": -p, "weight": p / 2.0, "size": len(p), "n": n}
                    for n, p in enumerate(pieces)
                ]
            )
        return out

    train = prep(stories, encode=encode, key="columns").train
    batch = train.batch(np.arange(train.rows))
    real = batch["doc"] >= 0
    np.testing.assert_array_equal(batch["label"], -batch["tokens"])
    np.testing.assert_array_equal(batch["weight"][real], batch["tokens"][real] / 2.0)
    assert batch["weight"].dtype == np.float64 and batch["label"].dtype == np.int64
    store = train.parts[0].store
    assert store.column("label").dtype == np.int8 and store["tokens"].dtype == np.uint8
    np.testing.assert_array_equal(store["item.size"], store.lengths())
    assert set(np.unique(batch["size"][real])) <= set(store["item.size"].tolist())
    assert (batch["size"][~real] == 0).all() and set(np.unique(batch["n"])) == {0, 1}


def test_items_that_disagree_are_refused(prep: Prep, stories: Path) -> None:
    def short(examples: Sequence[Example]) -> list[list[Item]]:
        return [[{"tokens": np.arange(5), "label": np.arange(4)}] for _ in examples]

    def lacking(examples: Sequence[Example]) -> list[list[Item]]:
        return [
            [{"tokens": np.arange(5), **({"label": np.arange(5)} if i == 0 else {})}]
            for i, _ in enumerate(examples)
        ]

    for encode, match in ((short, "as long as"), (lacking, "lacks the column"), (lambda e: [], "0 lists")):
        with pytest.raises(ValueError, match=match):
            prep(stories, encode=encode, key=match)


def calls(counter: list[int]) -> Callable[[Sequence[Example]], list[list[Item]]]:
    def encode(examples: Sequence[Example]) -> list[list[Item]]:
        counter.append(len(examples))
        return encode_plain(examples)

    return encode


def test_the_cache_is_keyed_by_content(prep: Prep, stories: Path, tmp_path: Path) -> None:
    counter: list[int] = []
    first = prep(stories, encode=calls(counter))
    assert counter and not first.report.sources[0].cached
    counter.clear()
    again = prep(stories, encode=calls(counter))
    assert not counter and again.report.sources[0].cached and again.train.hash == first.train.hash
    # another name, the same content
    moved = tmp_path / "elsewhere"
    stories.rename(moved)
    renamed = prep(moved, encode=calls(counter))
    assert not counter and renamed.train.hash == first.train.hash
    assert renamed.train.refs(0)[0].source == "elsewhere"
    # another context: packed anew, not encoded anew
    wider = prep(moved, encode=calls(counter), context=32)
    assert not counter and wider.train.context == 32 and wider.train.hash != first.train.hash
    # another tokenizer, split, unit: encoded anew
    for options in ({"key": "other"}, {"val_fraction": 0.2}, {"unit": "line"}):
        counter.clear()
        assert prep(moved, encode=calls(counter), **options) and counter
    # the same name and size, another content
    counter.clear()
    path = moved / "1.txt"
    path.write_text(path.read_text().replace("story 7", "STORY 7"))
    assert prep(moved, encode=calls(counter)).train.hash != first.train.hash and counter


def test_sources_are_prepared_apart(prep: Prep, stories: Path, tmp_path: Path) -> None:
    counter: list[int] = []
    prep(stories, encode=calls(counter))
    counter.clear()
    more = tmp_path / "more.txt"
    more.write_text("another source\n" * 50)
    both = prep([str(stories), str(more)], encode=calls(counter))
    assert sum(counter) == 2  # the new file alone: its training part and its held-out part
    assert both.train.source_names == ("stories", "more")
    batch = both.train.batch(np.arange(both.train.rows))
    assert np.bincount(batch["source"]).tolist() == list(both.train.source_rows)


def test_two_processes_prepare_the_same_at_once(stories: Path, tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import sys, time, numpy as np
        from pathlib import Path
        from exnihilo.config import DataConfig
        from exnihilo.data import prepare
        calls = []
        def encode(examples):
            calls.append(1); time.sleep(0.3)
            return [[{"tokens": np.frombuffer(e["text"].encode(), np.uint8)}] for e in examples]
        s = prepare(DataConfig(sources=sys.argv[1]), None, encode=encode, key="k", context=16, seed=0,
                    cache=Path(sys.argv[2]))
        s.train.verify(); s.val.verify()
        print(s.train.hash, len(calls))
        """
    )
    cache = tmp_path / "shared"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(stories), str(cache)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(3)
    ]
    rows = [p.communicate(timeout=100)[0].decode().split() for p in started]
    assert len({r[0] for r in rows}) == 1
    assert sum(int(r[1]) > 0 for r in rows) == 1  # one worked, the others waited for it
    left = [p.name for p in cache.rglob("*") if p.name.startswith(".tmp") or p.name.endswith(".lock")]
    assert left == []


def test_the_result_does_not_depend_on_the_number_of_threads(
    prep: Prep, stories: Path, tmp_path: Path
) -> None:
    hashes = {prep(stories, workers=w, cache=tmp_path / str(w), unit="line").train.hash for w in (1, 2, 5)}
    assert len(hashes) == 1


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    assert resource
    code = textwrap.dedent(
        """
        import sys, resource, numpy as np
        from pathlib import Path
        from exnihilo.config import DataConfig
        from exnihilo.data import prepare
        Z = np.zeros(1 << 21, np.uint16) + 300
        def encode(examples): return [[{"tokens": Z[: len(e["text"]) // 4 + 2]}] for e in examples]
        prepare(DataConfig(sources=sys.argv[1]), None, encode=encode, key="k", context=512, seed=0,
                cache=Path(sys.argv[2]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        """
    )
    peaks = []
    line = "It was the best of times, it was the worst of times, it was the age of wisdom.\n"
    for megabytes in (8, 32):
        path = tmp_path / f"{megabytes}.txt"
        with open(path, "w") as file:
            for _ in range(megabytes):
                file.write(line * (1_000_000 // len(line)))
        out = subprocess.run(
            [sys.executable, "-c", code, str(path), str(tmp_path / "c")],
            capture_output=True,
            check=True,
            timeout=100,
        )
        peaks.append(int(out.stdout) / 1024)
        os.unlink(path)
    assert peaks[1] < peaks[0] + 12, f"peak {peaks[0]:.0f} MB at 8 MB of text, {peaks[1]:.0f} MB at 32 MB"


def test_the_order_is_the_datasets_own(prep: Prep, stories: Path, tmp_path: Path) -> None:
    one = prep(stories, seed=3).train
    drawn = one.order().rows(0, one.rows)
    assert sorted(drawn.tolist()) == list(range(one.rows))  # each row once an epoch
    (tmp_path / "b.txt").write_text("other words\n" * 200)
    weighted = [{"path": str(stories), "weight": 3}, {"path": str(tmp_path / "b.txt"), "weight": 1}]
    both = prep(weighted).train
    assert both.weights == (0.75, 0.25)
    counts = np.bincount(both.batch(both.order().rows(0, 400))["source"])
    assert counts.tolist() == [300, 100]


def test_the_report_is_json(prep: Prep, stories: Path) -> None:
    report = prep(stories).report
    body = json.loads(json.dumps(report.to_json()))
    assert body["sources"][0]["documents"] + body["sources"][0]["held_out"] == 180
    assert body["train"]["rows"] > 0 and body["leak"]["exact"] == 0
    assert len(report.lines()) >= 4


def test_batches_are_quick(prep: Prep, stories: Path) -> None:
    import time

    train = prep(stories, context=256).train
    rows = np.random.default_rng(0).integers(0, train.rows, 64)
    best = 0.0
    for _ in range(20):
        began = time.process_time()
        train.batch(rows)
        best = max(best, 64 * 257 / (time.process_time() - began))
    assert best > 2e6, f"{best:,.0f} tokens/s"
