"""Tensors of Hugging Face folders: which class of transformers a model is, what its tensors are called there,
and reading them from safetensors.

    architecture = written_as(config)            # of an encoder: by its heads
    theirs = to_hf(config, model.state_dict())
    config, ours = from_hf_tensors(config_json, read_tensors(folder), config)

What transformers has no name for (the transitions of a CRF, a head of a family that has none there) is not in
their folder's weights: `leftover` names it, `interop.hf` keeps it in a file beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from exnihilo import log
from exnihilo.config import ModelConfig
from exnihilo.errors import ModelError
from exnihilo.interop.files import read_json
from exnihilo.model import build
from exnihilo.model.family import SINKS, Architecture, Family, Rename, find
from exnihilo.model.heads import has_pooler
from exnihilo.model.init import draw

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Named(NamedTuple):
    """A tensor of a folder: their name, ours, and how it is laid out."""

    theirs: str
    ours: tuple[str, ...]
    transposed: bool
    twin: bool


def written_as(config: ModelConfig) -> Architecture | None:
    """The class of transformers that has most of a model's heads; None for decoders that predict tokens."""
    family, outputs = find(config.family), set(config.outputs)
    if config.compares:  # theirs do not
        outputs -= {"classes", "span"}
    if not family.architectures:
        return family.scorer if "tokens" not in outputs and "value" in outputs else None
    found = (*((family.scorer,) if family.scorer else ()), *family.architectures)
    fits = [a for a in found if not a.bare and set(a.outputs) <= outputs]
    return max(fits, key=lambda a: len(a.outputs), default=found[-1] if found else None)


def read_as(theirs: Mapping[str, Any], family: Family, names: Iterable[str]) -> Architecture | None:
    """What a folder holds, by its config.json and its tensors; None for decoders that predict tokens."""
    listed = (theirs.get("architectures") or [None])[0]
    listed = listed.removesuffix(SINKS) if isinstance(listed, str) else listed
    outputs = (theirs.get("exnihilo") or {}).get("outputs")
    scores = not family.architectures or (isinstance(outputs, (list, tuple)) and "value" in outputs)
    if family.scorer is not None and listed == family.scorer.name and scores:
        return family.scorer
    if not family.architectures:
        return None
    names = set(names)
    listed = family.architectures[-1].name if listed is None else listed
    known = {a.name: a for a in family.architectures}
    if listed not in known:
        raise ModelError(
            f"config.json: architectures is {listed!r}",
            expected=f"one of {', '.join(known)}",
            next="use one of these classes of transformers",
        )
    found = known[listed]
    for other in family.architectures:  # old folders hold more heads than they say
        more = set(other.outputs) > set(found.outputs)
        if more and {n.theirs for n in _expand(other.renames, 0) if not n.twin} - {family.head} <= names:
            found = other
    return found


def tensors(config: ModelConfig, architecture: Architecture | None) -> list[Named]:
    """Every tensor that a folder of this configuration holds."""
    family = find(config.family)
    rules = family.renames + (architecture.renames if architecture else ())
    rules += (family.sinks,) if config.sinks and family.sinks is not None else ()
    found = list(_expand(rules, config.depth))
    if not has_pooler(config):  # the trunk of a model whose heads read none
        found = [named for named in found if not named.ours[0].startswith("pooler.")]
    if architecture is None:
        found.append(Named(family.head, ("heads.tokens.weight",), False, False))
    if config.tied:
        found = [named for named in found if named.theirs != family.head]
    return found


def to_hf(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under their names and shapes. What is tied is written once, as transformers does."""
    family, architecture = find(config.family), written_as(config)
    bare = architecture is not None and architecture.bare
    out: dict[str, Tensor] = {}
    for named in tensors(config, architecture):
        if named.twin and config.tied:
            continue
        parts = [state[name] for name in named.ours]
        value = torch.cat(parts) if len(parts) > 1 else parts[0]
        value = value.clone() if named.twin else value
        name = named.theirs.removeprefix(family.prefix) if bare else named.theirs
        out[name] = value.t() if named.transposed else value
    return family.pack(config, out)


def leftover(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of our state dict `to_hf` has no name for; tied weights not twice."""
    named = {name for n in tensors(config, written_as(config)) for name in n.ours}
    named -= set(find(config.family).kept)
    seen = {id(state[name]) for name in named if name in state}
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name not in named and id(value) not in seen:
            seen.add(id(value))
            out[name] = value
    return out


def from_hf_tensors(
    theirs: Mapping[str, Any], state: Mapping[str, Tensor], config: ModelConfig
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The configuration, its heads corrected by what is there, and their tensors under our names, checked."""
    family = find(config.family)
    state = _renamed(family, {n: v for n, v in state.items() if not n.endswith(family.ignored)})
    state = family.unpack(config, state)
    architecture = read_as(theirs, family, state)
    first = family.renames[0].theirs
    if architecture is not None and "outputs" not in (theirs.get("exnihilo") or {}):
        config = config.model_copy(update={"outputs": architecture.outputs})
    if config.tied:
        _check_tied(state.pop(family.head, None), state.get(first), family)
    wanted = tensors(config, architecture)
    state = _without_strangers(state, wanted, family)
    twins = {n.theirs: state.pop(n.theirs) for n in wanted if n.twin and n.theirs in state}
    expected = [n for n in wanted if not n.twin]
    state = _with_pooler(state, expected, architecture, config)
    known = {n.theirs for n in expected}
    missing, unexpected = sorted(known - set(state)), sorted(set(state) - known)
    if missing or unexpected:
        said = {"missing": missing, "unexpected": unexpected}
        listed = "; ".join(f"{what} {_few(names)}" for what, names in said.items() if names)
        raise ModelError(
            f"tensors do not fit a {family.model_type} of {config.depth} layers: {listed}",
            expected=f"{len(known)} tensors, got {len(state)}",
            next="check config.json against the weights",
        )
    out = _split(state, expected, config)
    for named in wanted:
        if named.twin and named.theirs in twins:
            _twin(named, twins[named.theirs], out, config.tied)
    if config.tied:
        for name in config.outputs:
            if name in ("tokens", "mlm"):
                out[f"heads.{name}.weight"] = out["front.tokens.weight"]
    return config, out


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, on the CPU, from model.safetensors or from the shards of its index."""
    files = [folder / WEIGHTS]
    if not files[0].exists() and (folder / INDEX).exists():
        listed = read_json(folder / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise ModelError(f"{folder / INDEX} has no weight_map", expected="tensor names and their files")
        files = [folder / Path(str(name)).name for name in sorted(set(listed.values()))]
    out: dict[str, Tensor] = {}
    for file in files:
        if not file.exists():
            found = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
            raise ModelError(
                f"{file} does not exist; found: {', '.join(found) or 'nothing'}",
                expected=f"{WEIGHTS}, or shards with {INDEX}",
                next="save the weights as safetensors; pickled weights (.bin, .pt) are never loaded",
            )
        out |= read_file(file)
    return out


def read_file(file: Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file, on the CPU."""
    try:
        with safe_open(file, "pt") as reader:
            return {name: reader.get_tensor(name) for name in reader.keys()}
    except FileNotFoundError as error:
        raise ModelError(
            f"{file} does not exist", expected="a file that config.json names", next="copy it there"
        ) from error
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} ({file.stat().st_size} bytes) is cut short or altered: {error}",
            expected="a whole safetensors file",
            next="fetch or export it again",
        ) from error


def _expand(rules: Iterable[Rename], depth: int) -> Iterable[Named]:
    for rule in rules:
        for i in range(rule.first, depth) if "{i}" in rule.theirs else (0,):
            ours = tuple(name.format(i=i) for name in rule.ours)
            yield Named(rule.theirs.format(i=i), ours, rule.transposed, rule.twin)


def _renamed(family: Family, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Old endings as new ones, and the family's prefix where it was left out."""
    for old, new in family.old.items():
        state = {(n.removesuffix(old) + new if n.endswith(old) else n): v for n, v in state.items()}
    first = family.renames[0].theirs
    if family.prefix and first not in state and first.removeprefix(family.prefix) in state:
        state = {k if k == family.head else family.prefix + k: v for k, v in state.items()}
    return state


def _without_strangers(
    state: dict[str, Tensor], wanted: Iterable[Named], family: Family
) -> dict[str, Tensor]:
    """Tensors of heads that this class does not have are left out, and said; old folders hold such."""
    heads = {n.theirs for a in family.architectures for n in _expand(a.renames, 0)}
    dropped = sorted((heads - {n.theirs for n in wanted}) & set(state))
    if dropped:
        log.say(f"not part of the class that config.json names, left out: {_few(dropped)}")
    return {name: value for name, value in state.items() if name not in dropped}


def _with_pooler(
    state: dict[str, Tensor],
    expected: Iterable[Named],
    architecture: Architecture | None,
    config: ModelConfig,
) -> dict[str, Tensor]:
    """A trunk may come without its pooler, which nothing reads then: it is drawn at random, and said."""
    if architecture is None or not architecture.bare:
        return state
    own = {n.theirs: n.ours[0] for n in expected if n.ours[0].startswith("pooler.")}
    if not own or set(own) & set(state):
        return state
    log.say("there is no pooler beside the trunk: it is drawn at random")
    shapes = {name: p.shape for name, p in build(config, device="meta").state_dict().items()}
    width = config.width or 0
    return state | {n: draw(o, tuple(shapes[o]), width, config.depth, 0) for n, o in own.items()}


def _split(state: Mapping[str, Tensor], expected: Iterable[Named], config: ModelConfig) -> dict[str, Tensor]:
    """Their tensors as ours, each of the shape that the configuration gives it."""
    shapes = {name: p.shape for name, p in build(config, device="meta").state_dict().items()}
    out: dict[str, Tensor] = {}
    for name, ours, transposed, _ in expected:
        value = state[name].t() if transposed else state[name]
        rows = [shapes[o][0] for o in ours]
        wanted = (sum(rows), *shapes[ours[0]][1:])
        if tuple(value.shape) != wanted:
            shown = tuple(reversed(wanted)) if transposed else wanted
            raise ModelError(
                f"{name} has shape {tuple(state[name].shape)}",
                expected=f"{shown}, from config.json",
                next="check config.json against the weights",
            )
        out.update(zip(ours, value.split(rows), strict=True))
    return out


def _twin(named: Named, value: Tensor, out: dict[str, Tensor], tied: bool) -> None:
    """Tied: both must be the same. Not tied: this is the one that transformers reads."""
    if tied and not torch.equal(value, out[named.ours[0]]):
        raise ModelError(
            f"tie_word_embeddings is true, but {named.theirs} differs from its twin",
            expected="one tensor, or tie_word_embeddings false",
        )
    if value.shape != out[named.ours[0]].shape:
        raise ModelError(
            f"{named.theirs} has shape {tuple(value.shape)}", expected=f"{tuple(out[named.ours[0]].shape)}"
        )
    out[named.ours[0]] = value


def _check_tied(head: Tensor | None, embedding: Tensor | None, family: Family) -> None:
    """Some writers store a tied matrix twice; that is fine as long as both are the same."""
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        raise ModelError(
            f"tie_word_embeddings is true, but {family.head} differs from {family.renames[0].theirs}",
            expected="one matrix, or tie_word_embeddings false",
        )


def _few(items: list[str], n: int = 5) -> str:
    return ", ".join(items[:n]) + (f" and {len(items) - n} more" if len(items) > n else "")
