"""Text <-> ids: byte-level BPE, WordPiece, bytes, characters; saved as files that Transformers reads too."""

from exnihilo.codec.base import Codec, Streamer
from exnihilo.codec.create import load, train

__all__ = ["Codec", "Streamer", "load", "train"]
