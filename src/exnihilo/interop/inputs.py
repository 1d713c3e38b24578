"""What exports are proved on: texts of the run's own data, and a hard corpus for tokenizers.

::

    texts, where = real_inputs(Path("runs/books"), codec, objective)    # "8 examples of the run's own data"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exnihilo import log
from exnihilo.errors import DataError, UsageError

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

HARD = (
    "Once upon a time there was a fox who lived by the sea.",
    "  leading spaces,\ttabs\t\tand trailing ones   ",
    "line\nbreaks\r\nof\rall\n\n\nkinds\u2028and\u2029more",
    "Numbers: 0 1 12 123 1234567890 3.14159 -1e-10 1,000,000 ½ ² ①",
    "don't we'll I'm you're it's they'd DON'T WE'LL",
    'def f(x: int) -> str:\n\treturn f"{x!r}" if x else None  # naïve\n',
    "Ünïcödé: ß straße ŒUVRE naïve café, cafe\u0301 (combining), ﬁ ligature",
    "Русский текст, ελληνικά, עברית, العربية, हिन्दी, ไทย",
    "日本語のテキスト。中文文本,한국어 텍스트",
    "emoji 😀 👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷 👍🏽 and text",
    "zero\u200bwidth\u200djoin\ufeffbom \u00a0nbsp \u3000wide",
    "<|eos|> <|bos|> <|pad|> <|im_start|>user [CLS] [SEP] </s> <unk>: text, not tokens",
    "\x00\x01\x1f control \x7f characters",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 4,
    "https://example.org/a?b=c&d=%20#e user@example.org C:\\path\\to\\file",
    "\"'`´‘’“”«»„‚—–-…·•†‡§¶",
    "𝕳𝖊𝖑𝖑𝖔 𐍈 𠜎 \U0010fffd",
)


def real_inputs(run: Path, codec: Codec, objective: Mapping[str, Any] | None = None) -> tuple[list[str], str]:
    """Texts to compare on: of the run's own data where it is at hand, and what they are.

    Args:
        objective: what it was trained for, as in objective.json: decides how its data is read.
    """
    config = run / "config.toml"
    if config.is_file():
        from exnihilo.config_layers import load_toml
        from exnihilo.data import open_sources
        from exnihilo.objective import registry

        try:
            name = (objective or {}).get("objective")
            how: dict[str, Any] = {}
            if isinstance(name, str) and name != "mix":
                kind = registry.find(name)
                how = {"roles": kind.roles, "extras": kind.extras, "view": kind.view}
            texts: list[str] = []
            roles = how.get("roles", ("text",))
            for source in open_sources(load_toml(config).data, **how):
                for example in source.examples():
                    text = "\n".join(_said([example.get(role) for role in roles]))[:4000]
                    if len(codec.encode(text)) > 1:
                        texts.append(text)
                    if len(texts) >= 8:
                        break
                if len(texts) >= 8:
                    break
            if texts:
                return texts, f"{len(texts)} examples of the run's own data"
        except (DataError, UsageError, OSError) as error:
            log.say(
                f"the run's own data is not at hand ({str(error).splitlines()[0]}); built-in texts are used"
            )
    return list(HARD), "built-in texts"


def _said(value: Any) -> Iterator[str]:
    """The texts in an example, in order: of messages their contents."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in [value["content"]] if "content" in value else value.values():
            yield from _said(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _said(part)
