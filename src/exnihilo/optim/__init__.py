"""Optimisers: SGD, AdamW, Muon; parameter groups; schedules as pure functions of the step; the range
finder."""

from exnihilo.optim.create import create
from exnihilo.optim.finder import Curve, find_lr
from exnihilo.optim.groups import clip, split
from exnihilo.optim.schedule import scale

__all__ = ["Curve", "clip", "create", "find_lr", "scale", "split"]
