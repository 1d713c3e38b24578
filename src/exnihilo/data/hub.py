"""Data sets of the Hugging Face hub, or of a folder, through the package `datasets`.

rows = load("hub:owner/name/config:train")
names = class_names(rows.features)          # column -> names of its integer ids
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exnihilo.errors import ConfigError, DataError, MissingExtra


def class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Column -> names of its integer ids, as the data set's features tell them."""
    out = {}
    for column, feature in features.items():
        feature = feature[0] if isinstance(feature, list) and feature else feature
        feature = getattr(feature, "feature", feature)
        names = getattr(feature, "names", None)
        if names:
            out[column] = list(names)
    return out


MEDIA_TYPES = {"Audio": "sound", "Image": "picture"}
"""Types of columns that hold files, and the roles they fit."""


def media(features: Mapping[str, Any]) -> dict[str, str]:
    """Role -> the first column whose type fits it: of sounds and of pictures."""
    out: dict[str, str] = {}
    for column, feature in features.items():
        role = MEDIA_TYPES.get(type(feature).__name__)
        if role is not None:
            out.setdefault(role, column)
    return out


def load(path: str) -> Any:
    """The rows of a data set, one split of it; sounds and pictures as the bytes or the path of their file.

    Raises:
        DataError: it could not be had, or has no such split. MissingExtra: `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra.of("datasets", "hub") from error
    name, split = path.removeprefix("hub:"), "train"
    stem, colon, last = name.rpartition(":")
    if colon and "/" not in last and "\\" not in last:
        name, split = stem, last
    config = None
    if not Path(name).expanduser().exists():
        owner = name.split("/")
        if len(owner) == 3:
            name, config = "/".join(owner[:2]), owner[2]
        elif len(owner) > 3 or not all(owner):
            raise ConfigError(
                f"data={path}", expected="hub:owner/name[/config][:split], or hub:FOLDER[:split]"
            )
    else:
        name = str(Path(name).expanduser())
    try:
        loaded = datasets.load_dataset(name, config)
    except Exception as error:  # the library raises errors of many kinds; all say that it could not be had
        raise DataError(
            f"{path} could not be loaded by `datasets`: {type(error).__name__}: {error}",
            expected="a data set on the Hugging Face hub that needs no code of its own, or a local folder",
            next="check the name and the network (HF_HUB_OFFLINE), or give local files: data=PATH",
        ) from error
    if split not in loaded:
        raise DataError(
            f"{path} has no split {split!r}",
            expected=f"one of: {', '.join(map(str, loaded))}",
            next=f"{path}:SPLIT",
        )
    rows = loaded[split]
    for column, feature in dict(rows.features).items():
        if type(feature).__name__ in MEDIA_TYPES:
            rows = rows.cast_column(column, type(feature)(decode=False))
    return rows
