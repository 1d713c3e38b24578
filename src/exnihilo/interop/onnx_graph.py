"""An encoder's forward as an ONNX graph, operator by operator; see onnx.py, which is what to use.

    made = graph(model, objective)      # onnx.ModelProto
    save(made, Path("model.onnx"))

Every name of a weight is the one it has in the model. Products of attention are written out: runtimes fuse
what they can. Angles of rotary positions are a table of ``context`` rows.

Key: B batch, T positions, D model width, H heads, d head width, C labels
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo.model.family import find
from exnihilo.model.heads import Pooler, Transform

if TYPE_CHECKING:
    from torch import Tensor

    from exnihilo.config import ModelConfig
    from exnihilo.model.model import Model

HEADS = ("embedding", "classes", "tags", "span", "mlm", "next", "value", "replaced")
OPSET = 20
HIDDEN = -1e9  # added to the score of a key that is not seen: its weight is then exactly 0


def names(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """The outputs of each head, by the head's name; those that a model's trunk always has come first."""
    out: dict[str, tuple[str, ...]] = {"embedding": ("last_hidden_state",)}
    known = [name for name in config.outputs if name in HEADS and name != "embedding"]
    for name in known:
        if name == "span":
            out[name] = ("start_logits", "end_logits")
        elif name == "next" and len(known) > 1:
            out[name] = ("seq_relationship_logits",)
        else:
            out[name] = ("logits",) if name == known[0] else (f"{name}_logits",)
    return out if "embedding" in config.outputs else {k: v for k, v in out.items() if k != "embedding"}


def graph(model: Model, objective: Mapping[str, Any] | None = None) -> Any:
    """The graph of an encoder (`onnx.ModelProto`), float32, batch and length free."""
    return _Writer(model, objective).written()


def save(made: Any, path: Path) -> None:
    """Write a graph, checked by the format's own rules."""
    import onnx

    onnx.checker.check_model(made)
    path.write_bytes(made.SerializeToString())


class _Writer:
    """Adds operators; each method returns the name of what it computes."""

    def __init__(self, model: Model, objective: Mapping[str, Any] | None) -> None:
        self.model, self.config = model, model.config
        self.objective = objective or {}
        self.nodes: list[Any] = []
        self.weights: dict[str, np.ndarray] = {}
        self.outputs: list[tuple[str, list[int | str]]] = []
        self._at = ""

    # operators ----------------------------------------------------------------------------------------

    def op(self, kind: str, *inputs: str, out: str | None = None, count: int = 1, **attributes: Any) -> str:
        """One operator; with `count` several results, the first's name ends in _0."""
        from onnx import helper

        name = f"{self._at}{kind}_{len(self.nodes)}"
        made = [out or name] if count == 1 else [f"{name}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), made, name=name, **attributes))
        return made[0]

    def const(self, name: str, value: Any, dtype: Any = np.int64) -> str:
        """A constant."""
        self.weights.setdefault(name, np.asarray(value, dtype))
        return name

    def weight(self, name: str, value: Tensor) -> str:
        """A weight, float32."""
        array = np.ascontiguousarray(value.detach().to("cpu").float().numpy())
        return self.const(name, array, np.float32)

    def linear(self, x: str, name: str, module: Any) -> str:
        """x · Wᵀ + b."""
        x = self.op("MatMul", x, self.weight(f"{name}.weight", module.weight.t()))
        return x if module.bias is None else self.op("Add", x, self.weight(f"{name}.bias", module.bias))

    def norm(self, x: str, name: str, module: Any) -> str:
        """LayerNorm, or x itself where there is none."""
        if getattr(module, "weight", None) is None:
            return x
        more = [] if module.bias is None else [self.weight(f"{name}.bias", module.bias)]
        scale = self.weight(f"{name}.weight", module.weight)
        return self.op("LayerNormalization", x, scale, *more, axis=-1, epsilon=float(module.eps))

    def slice(self, x: str, end: str, axis: int = 0) -> str:
        """x[:end]."""
        return self.op("Slice", x, self.const("zero1", [0]), end, self.const(f"axis{axis}", [axis]))

    # the trunk ----------------------------------------------------------------------------------------

    def written(self) -> Any:
        """The whole."""
        from onnx import TensorProto, helper, numpy_helper

        config, named = self.config, names(self.config)
        hidden = self.trunk()
        pooled_in: list[Any] = ["B", "T"]
        if "embedding" in named:
            self.op("Identity", hidden, out="last_hidden_state")
            self.outputs.append(("last_hidden_state", ["B", "T", config.width or 0]))
            self.pooled(hidden)
        for head, listed in named.items():
            if head != "embedding":
                self.head(head, listed, hidden, pooled_in)
        columns = ["input_ids", "attention_mask", *(["token_type_ids"] if config.segments else [])]
        made = helper.make_graph(
            self.nodes,
            "encoder",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"]) for name in columns],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in self.outputs],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        return helper.make_model(
            made,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=9,
            producer_name="exnihilo",
            producer_version=version("exnihilo"),
        )

    def trunk(self) -> str:
        """Hidden states (B, T, D)."""
        front, trunk = self.model.front, self.model.trunk
        self.length = self.op("Shape", "input_ids", start=1, end=2)
        x = self.op("Gather", self.weight("front.tokens.weight", front.tokens.weight), "input_ids")
        if front.positions is not None:
            table = self.weight("front.positions.weight", front.positions.weight)
            x = self.op("Add", x, self.slice(table, self.length))
        if front.segments is not None:
            table = self.weight("front.segments.weight", front.segments.weight)
            x = self.op("Add", x, self.op("Gather", table, "token_type_ids"))
        if front.norm is not None:
            x = self.norm(x, "front.norm", front.norm)
        real = self.op("Cast", "attention_mask", to=1)
        gone = self.op("Mul", self.op("Sub", self.const("one", 1.0, np.float32), real), self._hidden())
        everywhere = self.op("Unsqueeze", gone, self.const("axes12", [1, 2]))
        local = self._window(everywhere) if trunk.window is not None else everywhere
        whole, near = self._angles(trunk.rotary, "rotary"), self._angles(trunk.local_rotary, "local_rotary")
        for i, block in enumerate(trunk.blocks):
            self._at = f"block{i}."
            turn = near if getattr(block, "local", False) and near is not None else whole
            x = self.block(x, i, block, local if getattr(block, "local", False) else everywhere, turn)
        self._at = ""
        return self.norm(x, "trunk.norm", trunk.norm)

    def _hidden(self) -> str:
        return self.const("hidden", HIDDEN, np.float32)

    def _window(self, everywhere: str) -> str:
        """What is added to scores of local layers (B, 1, T, T)."""
        scalar = self.op("Squeeze", self.length)
        place = self.op("Range", self.const("zero", 0), scalar, self.const("step", 1))
        rows = self.op("Unsqueeze", place, self.const("axes1", [1]))
        columns = self.op("Unsqueeze", place, self.const("axes0", [0]))
        apart = self.op("Abs", self.op("Sub", rows, columns))
        far = self.op("Greater", apart, self.const("window", self.model.trunk.window))
        away = self.op("Where", far, self._hidden(), self.const("nothing", 0.0, np.float32))
        return self.op("Add", everywhere, away)

    def _angles(self, rotary: Any, name: str) -> tuple[str, str] | None:
        """Cosines and signed sines of positions 0 .. T-1."""
        if rotary is None:
            return None
        import torch

        table = rotary._table(self.config.context, torch.device("cpu"))
        cos, sin = (self.weight(f"{name}.{part}", getattr(table, part)) for part in ("cos", "sin"))
        return self.slice(cos, self.length), self.slice(sin, self.length)

    def block(self, x: str, i: int, block: Any, mask: str, turn: tuple[str, str] | None) -> str:
        """One block, pre-norm or post-norm."""
        post = find(self.config.family).post_norm
        at = f"trunk.blocks.{i}"
        inner = x if post else self.norm(x, f"{at}.attention_norm", block.attention_norm)
        x = self.op("Add", x, self.attention(inner, f"{at}.attention", block.attention, mask, turn))
        x = self.norm(x, f"{at}.attention_norm", block.attention_norm) if post else x
        inner = x if post else self.norm(x, f"{at}.mlp_norm", block.mlp_norm)
        x = self.op("Add", x, self.mlp(inner, f"{at}.mlp", block.mlp))
        return self.norm(x, f"{at}.mlp_norm", block.mlp_norm) if post else x

    def attention(self, x: str, name: str, module: Any, mask: str, turn: tuple[str, str] | None) -> str:
        """Who reads from whom."""
        heads = module.q.weight.shape[0] // module.head_dim
        split = self.const("heads", [0, 0, heads, module.head_dim])
        parts = {}
        for part in "qkv":
            y = self.op("Reshape", self.linear(x, f"{name}.{part}", getattr(module, part)), split)
            last = part == "k" and turn is None
            parts[part] = self.op("Transpose", y, perm=[0, 2, 3, 1] if last else [0, 2, 1, 3])
        if turn is not None:
            parts["q"], parts["k"] = self.rotate(parts["q"], turn), self.rotate(parts["k"], turn)
            parts["k"] = self.op("Transpose", parts["k"], perm=[0, 1, 3, 2])
        scale = self.const("scale", 1 / math.sqrt(module.head_dim), np.float32)
        scores = self.op("Add", self.op("Mul", self.op("MatMul", parts["q"], parts["k"]), scale), mask)
        read = self.op("MatMul", self.op("Softmax", scores, axis=-1), parts["v"])
        joined = self.op(
            "Reshape", self.op("Transpose", read, perm=[0, 2, 1, 3]), self.const("join", [0, 0, -1])
        )
        return self.linear(joined, f"{name}.o", module.o)

    def rotate(self, x: str, turn: tuple[str, str]) -> str:
        """x · cos + swapped halves · sin."""
        first = self.op("Split", x, axis=-1, num_outputs=2, count=2)
        swapped = self.op("Concat", f"{first[:-1]}1", first, axis=-1)
        return self.op("Add", self.op("Mul", x, turn[0]), self.op("Mul", swapped, turn[1]))

    def mlp(self, x: str, name: str, module: Any) -> str:
        """The position-wise half."""
        if hasattr(module, "gate"):
            gate = self.op("Gelu", self.linear(x, f"{name}.gate", module.gate))
            inner = self.op("Mul", gate, self.linear(x, f"{name}.up", module.up))
        else:
            up = self.linear(x, f"{name}.up", module.up)
            inner = self.op("Gelu", up, approximate=module.approximate)
        return self.linear(inner, f"{name}.down", module.down)

    # heads --------------------------------------------------------------------------------------------

    def pooled(self, hidden: str) -> None:
        """sentence_embedding (B, D): the mean of all tokens, or the first, of length 1."""
        options = self.objective.get("options") or {}
        if options.get("pooling", "mean") == "cls":
            vector = self.first(hidden)
        else:
            real = self.op("Unsqueeze", self.op("Cast", "attention_mask", to=1), self.const("axes2", [2]))
            axis = self.const("axis1", [1])
            vector = self.op("ReduceSum", self.op("Mul", hidden, real), axis, keepdims=0)
            count = self.op("ReduceSum", real, axis, keepdims=0)
            vector = self.op("Div", vector, self.op("Max", count, self.const("least", 1e-9, np.float32)))
        size = self.op("ReduceL2", vector, self.const("last", [-1]), keepdims=1)
        size = self.op("Max", size, self.const("tiny", 1e-12, np.float32))
        self.op("Div", vector, size, out="sentence_embedding")
        self.outputs.append(("sentence_embedding", ["B", self.config.width or 0]))

    def first(self, hidden: str) -> str:
        """States of first tokens (B, D)."""
        return self.op("Gather", hidden, self.const("zero", 0), axis=1)

    def read(self, x: str, *, tanh: bool) -> str:
        """What a head's last product is given: pooled where the model has a pooler that it reads."""
        pooler = self.model.pooler
        if isinstance(pooler, Transform):
            return self.transform(x, "pooler", pooler)
        if isinstance(pooler, Pooler) and tanh:
            return self.op("Tanh", self.linear(x, "pooler.dense", pooler.dense))
        return x

    def transform(self, x: str, name: str, module: Any) -> str:
        """norm(gelu(dense(x)))."""
        return self.norm(
            self.op("Gelu", self.linear(x, f"{name}.dense", module.dense)), f"{name}.norm", module.norm
        )

    def head(self, name: str, listed: Sequence[str], hidden: str, shape: list[Any]) -> None:
        """The outputs of one head."""
        head: Any = self.model.heads[name]
        at = f"heads.{name}"
        C = self.config.labels or 0
        if name in ("classes", "next", "value"):
            y = self.linear(self.read(self.first(hidden), tanh=True), f"{at}.dense", head.dense)
            width = {"classes": C, "next": 2, "value": 1}[name]
            self._out(y, listed[0], ["B", width])
        elif name == "mlm":
            own = head.own
            inner = (
                self.transform(hidden, f"{at}.own", own) if own is not None else self.read(hidden, tanh=False)
            )
            self._at = "mlm."
            if head.tied:
                table = self.op("Transpose", "front.tokens.weight", perm=[1, 0])
            else:
                table = self.weight(f"{at}.weight", head.weight.t())
            y = self.op("Add", self.op("MatMul", inner, table), self.weight(f"{at}.bias", head.bias))
            self._at = ""
            self._out(y, listed[0], [*shape, self.config.vocab_size or 0])
        elif name == "tags":
            y = self.linear(self.read(hidden, tanh=False), f"{at}.dense", head.dense)
            self._out(y, listed[0], [*shape, C])
            if head.transitions is not None:
                for part, said in (("start", "start_"), ("stop", "stop_"), ("transitions", "")):
                    weight = self.weight(f"{at}.{part}", getattr(head, part))
                    self._out(weight, f"{said}transitions", [C, C] if part == "transitions" else [C])
        elif name == "span":
            y = self.linear(self.read(hidden, tanh=False), f"{at}.dense", head.dense)
            for number, one in enumerate(listed):
                index = self.const(f"index{number}", number)
                self._out(self.op("Gather", y, index, axis=2), one, list(shape))
        else:
            inner = self.op("Gelu", self.linear(hidden, f"{at}.hidden", head.hidden))
            y = self.linear(inner, f"{at}.dense", head.dense)
            self._out(self.op("Squeeze", y, self.const("last", [-1])), listed[0], list(shape))

    def _out(self, x: str, name: str, shape: list[Any]) -> None:
        self.op("Identity", x, out=name)
        self.outputs.append((name, shape))
