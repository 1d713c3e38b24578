"""Raw data -> data sets: sources, split, shards, packing, order. See docs/data.md."""

from exnihilo.data.base import Drops, Encode, Example, Item
from exnihilo.data.dataset import Dataset, DocRef
from exnihilo.data.prepare import Splits, examples, prepare, resolve_weights
from exnihilo.data.report import DataReport, LeakReport, PackReport
from exnihilo.data.sample import texts
from exnihilo.data.sources import Source, inherit, open_sources, settle

__all__ = [
    "DataReport",
    "Dataset",
    "DocRef",
    "Drops",
    "Encode",
    "Example",
    "Item",
    "LeakReport",
    "PackReport",
    "Source",
    "Splits",
    "examples",
    "inherit",
    "open_sources",
    "prepare",
    "resolve_weights",
    "settle",
    "texts",
]
