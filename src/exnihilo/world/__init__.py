"""The embedded world: stories out of nothing but a seed, with the truth about them. See docs/world.md."""

from .document import HELD_OUT as HELD_OUT
from .document import Document as Document
from .facts import FactSheet as FactSheet
from .facts import Size as Size
from .probes import Probe as Probe
from .world import World as World
from .world import stories as stories
