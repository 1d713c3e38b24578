"""Raw data -> data sets: sources, split, shards, packing, order. See docs/data.md."""

from exnihilo.data.base import Encode, Example, Item
from exnihilo.data.dataset import Dataset, DocRef
from exnihilo.data.prepare import Splits, prepare, resolve_weights
from exnihilo.data.report import DataReport, LeakReport, PackReport
from exnihilo.data.sample import texts
from exnihilo.data.sources import Source, open_sources, settle

__all__ = [
    "DataReport",
    "Dataset",
    "DocRef",
    "Encode",
    "Example",
    "Item",
    "LeakReport",
    "PackReport",
    "Source",
    "Splits",
    "open_sources",
    "prepare",
    "resolve_weights",
    "settle",
    "texts",
]
