"""Decoding and documents of plain text, against Python's own reading of whole files."""

from __future__ import annotations

import gzip
import random
import re
import tempfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from exnihilo.data import text
from exnihilo.errors import ConfigError, DataError


def documents(path: Path, **options: object) -> list[str]:
    """The documents, their parts joined; checks the marks of beginning and end."""
    given_ = {"encoding": "utf-8", "unit": "auto", "separator": None, **options}
    out: list[str] = []
    open_ = False
    for begin, end, part in text.documents(path, **given_):  # type: ignore[arg-type]
        assert begin is not open_
        assert len(part) <= text.SEGMENT
        if begin:
            out.append("")
        out[-1] += part
        open_ = not end
    assert not open_
    return out


def write(content: str | bytes, name: str = "a.txt") -> Path:
    path = Path(tempfile.mkdtemp()) / name
    data = content.encode() if isinstance(content, str) else content
    if name.endswith(".gz"):
        data = gzip.compress(data)
    if name.endswith(".zst"):
        data = zstandard.compress(data)
    path.write_bytes(data)
    return path


LINES = st.lists(
    st.sampled_from(["a", "bé", "漢字 x", "", " ", "<|endoftext|>", "--", "lorem ipsum dolor", "z" * 50]),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(
    LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.sampled_from(["a.txt", "a.gz", "a.zst"])
)
@pytest.mark.parametrize("tiny", [False, True])
def test_units_are_those_of_the_whole_text(
    tiny: bool, lines: list[str], newline: str, last: bool, name: str
) -> None:
    whole = newline.join(lines) + (newline if last else "")
    path = write(whole, name)
    clean = whole.replace("\r\n", "\n").replace("\r", "\n")
    rows = clean.split("\n")
    with pytest.MonkeyPatch.context() as patch:
        if tiny:
            patch.setattr(text, "SEGMENT", 32)
            patch.setattr(text.blocks, "__defaults__", (7,))
        assert documents(path, unit="file") == ([clean] if clean.strip() else [])
        assert documents(path, unit="line") == [r for r in rows if r.strip()]
        paragraphs = re.split(r"\n(?:[ \t]*\n)+", "\n" + clean)
        wanted = [re.sub(r"[ \t\n]+$", "", p.strip("\n")) for p in paragraphs]
        got = [re.sub(r"[ \t\n]+$", "", p) for p in documents(path, unit="paragraph")]
        assert got == [w for w in wanted if w.strip()]
        for mark, options in (("<|endoftext|>", {}), ("--", {"separator": "--"})):
            if mark in (r.strip() for r in rows):
                groups: list[list[str]] = [[]]
                for r in rows:
                    if r.strip(" \t") == mark:
                        groups.append([])
                    else:
                        groups[-1].append(r)
                wanted = ["\n".join(g).strip("\n") for g in groups]
                got = [d.strip("\n") for d in documents(path, **options)]
                assert got == [w for w in wanted if w.strip()]


def test_a_file_without_separators_keeps_every_character() -> None:
    body = "\n\nFirst Citizen:\nSpeak.  \n\n"
    assert documents(write(body)) == [body]


def test_a_separator_in_a_file_read_as_one_document_is_text() -> None:
    body = "a\n<|endoftext|>\nb\n"
    assert documents(write(body), unit="file") == [body]


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab \n\té漢\U0001f600", max_size=300), st.integers(1, 20))
def test_parts_join_to_the_document(body: str, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "SEGMENT", 16)
        pieces = [(body[i : i + block], False) for i in range(0, len(body), block)]
        out = list(text.parts(pieces))
        assert "".join(p for _, _, p in out) == (body if out else "")
        assert bool(out) == (bool(body.strip()) or len(body) > 16)
        assert [b for b, _, _ in out] == [i == 0 for i in range(len(out))]
        assert [e for _, e, _ in out] == [i == len(out) - 1 for i in range(len(out))]
        # where a document is cut does not depend on the blocks it came in
        assert out == list(text.parts([(body, False)]))


def test_the_seam_lies_where_pre_tokenizers_begin_anew() -> None:
    rng = random.Random(0)
    words = ["the", "Fox", "1984", "isn't", "漢字", "e-mail", "(so)", "naïve", "..."]
    lines = [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(60_000)]
    body = "\n".join(line + ("\n" if rng.random() < 0.2 else "") for line in lines)
    cut = [p for _, _, p in text.parts([(body, False)])]
    assert len(cut) > 1
    qwen = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    for pre in (
        pre_tokenizers.Split(Regex(qwen), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ):
        at = len(cut[0])
        around = body[at - 500 : at + 500]
        left, right = pre.pre_tokenize_str(around[:500]), pre.pre_tokenize_str(around[500:])
        whole = [piece for piece, _ in pre.pre_tokenize_str(around)]
        assert [piece for piece, _ in left + right] == whole


def test_byte_order_marks_and_encodings() -> None:
    assert documents(write(b"\xef\xbb\xbfab\n")) == ["ab\n"]
    assert documents(write("h\u00e9 \u6f22".encode("utf-16")), encoding="utf-16") == ["h\u00e9 \u6f22"]
    assert documents(write("h\u00e9".encode("latin-1")), encoding="latin-1") == ["h\u00e9"]


@pytest.mark.parametrize("before", [0, 3, 7, 4096, (1 << 20) - 1, (1 << 20) + 5])
def test_a_byte_that_is_not_utf8_is_named_by_file_and_offset(before: int) -> None:
    path = write(b"a" * before + b"\xe9 b")
    with pytest.raises(DataError) as caught:
        documents(path)
    assert str(path) in caught.value.given and f"offset {before} " in caught.value.given
    assert "0xe9" in caught.value.given and "data.encoding=latin-1" in caught.value.next


def test_a_character_cut_at_the_end_is_an_error_with_its_offset() -> None:
    with pytest.raises(DataError, match="0xf0 at offset 2 "):
        documents(write(b"ab\xf0\x9f\x98"))


def test_utf16_is_recognised_by_its_mark() -> None:
    with pytest.raises(DataError) as caught:
        documents(write("plain words".encode("utf-16")))
    assert "not utf-8" in caught.value.given and "utf-16" in caught.value.next


def test_an_unknown_encoding_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="latin-1"):
        documents(write("a"), encoding="latin1x")
    with pytest.raises(ConfigError, match="no text encoding"):
        documents(write(b"YWJj\n"), encoding="base64")


@pytest.mark.parametrize("name", ["a.gz", "a.zst"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_compressed_files_that_are_cut_short_are_errors(name: str, share: float) -> None:
    body = "".join(random.Random(0).choices("abcdefgh \n", k=50_000))
    path = write(body, name)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    if share == 0.0:
        assert documents(path) == []
        return
    with pytest.raises(DataError, match="cut short or altered"):
        documents(path)


def test_zstd_of_several_frames_is_read_to_the_end() -> None:
    path = write("")
    path = path.with_suffix(".zst")
    path.write_bytes(zstandard.compress(b"one\n") + zstandard.compress(b"two\n"))
    assert documents(path) == ["one\ntwo\n"]


def test_altered_gzip_is_an_error() -> None:
    path = write("abc " * 5000, "a.gz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="cut short or altered"):
        documents(path)
