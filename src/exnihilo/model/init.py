"""Pure randomness, made explicit: what each parameter of a new model is drawn from.

Each parameter has a random stream of its own, seeded by (seed, its name): so its values depend on nothing
else, not on the order of construction, the number of workers, the device, or torch's global state. Draws
are uniform: they are the same bits on every machine, and have no outliers.

============================  =======================================================================
parameter                     standard deviation
============================  =======================================================================
embeddings, output matrix     min(0.02, 0.32 / √width): logits of a normed state have at most 0.32
matrices                      1 / √fan_in: unit variance in, unit variance out
attention.o, mlp.down         1 / √fan_in / √(2 · depth): the residual stream keeps its scale (GPT-2)
what inputs are mapped by     0.5 / √fan_in
classifiers                   0.02 / √width: logits of a normed state have 0.02
norm weights, biases          1 and 0, exactly
attention sinks               0, exactly
transitions of tags           0, exactly: any tag may follow any
matrices past the trunk       0, exactly
============================  =======================================================================

With logits that small, the first loss is ln V, or ln C of C classes: the model knows nothing, and says so.
Classifiers (next, classes, tags, span, replaced, value) are smaller than output matrices because few logits
do not average out: with two classes, logits of deviation s are worth s²/8 nats.

Sources: Radford et al. 2019 (GPT-2); Glorot & Bengio 2010.
"""

from __future__ import annotations

import hashlib
import math
import re

import torch
from torch import Tensor, nn

from exnihilo.errors import ModelError

EMBEDDING_STD = 0.02
LOGIT_STD = 0.32
CLASS_STD = 0.02
INPUT_STD = 0.5
_EMBEDDINGS = ("front.tokens.weight", "front.positions.weight", "front.segments.weight")
_VOCABULARY = (".tokens.weight", ".mlm.weight")
_CRF = (".transitions", ".start", ".stop", ".straight")
_CLASSIFIER = re.compile(r"heads\.(next|classes|tags|span|replaced|value)\.(dense|match)\.weight")
_OUTPUTS = ("attention.o.weight", "mlp.down.weight")
# states begin at about the size of the embeddings they stand among
_INPUT = re.compile(r"front\.inputs\.\w+\.(dense|second)\.weight")


def std(name: str, shape: tuple[int, ...], width: int, depth: int) -> float | None:
    """Standard deviation of a parameter; None for those that are constants."""
    if name.endswith(("norm.weight", "bias", ".sinks", *_CRF)):
        return None
    if name.endswith(_EMBEDDINGS) or (name.startswith("heads.") and name.endswith(_VOCABULARY)):
        return min(EMBEDDING_STD, LOGIT_STD / math.sqrt(shape[-1]))
    if len(shape) != 2:
        raise ModelError(f"no rule to initialise {name} of shape {shape}", expected="a rule in model/init.py")
    if name.startswith("heads.") and _CLASSIFIER.fullmatch(name):
        return CLASS_STD / math.sqrt(shape[1])
    scale = 1 / math.sqrt(shape[1])
    if _INPUT.fullmatch(name):
        return scale * INPUT_STD
    return scale / math.sqrt(2 * depth) if name.endswith(_OUTPUTS) else scale


def draw(name: str, shape: tuple[int, ...], width: int, depth: int, seed: int) -> Tensor:
    """First value of a parameter: fp32, on the CPU, a pure function of the arguments."""
    sigma = std(name, shape, width, depth)
    if sigma is None:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    bound = sigma * math.sqrt(3)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def initialise(model: nn.Module, width: int, depth: int, seed: int) -> None:
    """Give every parameter its first value, in place. Sharded ones get their share of the same values."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ModelError(
                f"{name} has no memory (device meta)",
                expected="parameters on a device",
                next="call model.to_empty(device=...) first",
            )
        value = draw(name, tuple(parameter.shape), width, depth, seed)
        mesh = getattr(parameter, "device_mesh", None)
        if mesh is not None:
            from torch.distributed.tensor import distribute_tensor

            placements = parameter.placements  # type: ignore[attr-defined]
            value = value.to(device=mesh.device_type, dtype=parameter.dtype)
            parameter.copy_(distribute_tensor(value, mesh, placements, src_data_rank=None))
        else:
            parameter.copy_(value)
