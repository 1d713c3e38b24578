"""Devices, exchange between workers, the matmul peak, recomputation, and the decision to compile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from exnihilo.config import ModelConfig
from exnihilo.errors import ConfigError, TrainError
from exnihilo.model import build
from exnihilo.parallel import compile as compiling
from exnihilo.parallel import fsdp
from exnihilo.parallel.ckpt import checkpoint_blocks
from exnihilo.parallel.mesh import World, resolve_device
from exnihilo.parallel.peak import matmul_flops

CPU = torch.device("cpu")
CONFIG = ModelConfig(depth=3, width=32, heads=2, context=16, vocab_size=40)
TOKENS = torch.randint(0, 40, (2, 16), generator=torch.Generator().manual_seed(0))


def test_devices() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ConfigError, match="'tpu'"):
        resolve_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="not on this machine"):
            resolve_device("cuda")


def test_alone_nothing_is_sent() -> None:
    world = World.start("cpu")
    assert (world.rank, world.size, world.main) == (0, 1, True)
    assert world.gather({"a": 1}) == [{"a": 1}]
    assert world.sum({"b": 1.5, "a": 2.0}) == {"a": 2.0, "b": 1.5}
    assert world.first(lambda: "x") == "x"

    def fail() -> None:
        raise TrainError("no")

    with pytest.raises(TrainError, match="no"):
        world.first(fail)


def test_the_blocks_are_found_by_structure() -> None:
    model = build(CONFIG)
    assert fsdp.blocks(model) == list(model.trunk.blocks)
    assert fsdp.blocks(nn.Linear(2, 2)) == []


def test_full_and_like_are_inverse_for_plain_tensors() -> None:
    t = torch.arange(6.0).view(2, 3).t()  # not contiguous
    whole = fsdp.full(t)
    assert torch.equal(whole, t) and whole.is_contiguous()
    back = fsdp.like(whole, t)
    back += 1
    assert torch.equal(whole, t)  # a copy


def test_the_peak_is_a_speed() -> None:
    found = matmul_flops(CPU, seconds=0.02, size=256)
    assert 1e8 < found < 1e15
    assert matmul_flops(CPU, seconds=0.02, size=256) == found  # measured once


def gradients(model: nn.Module) -> list[torch.Tensor]:
    model({"tokens": TOKENS}).square().sum().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_recomputing_gives_the_same_gradients_under_the_same_names() -> None:
    plain, again = build(CONFIG, seed=1), build(CONFIG, seed=1)
    assert checkpoint_blocks(again) == 3
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in again.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(gradients(plain), gradients(again), strict=True))


def decide(setting: str, seconds: float) -> compiling.Decision:
    return compiling.decide(setting, CPU, seconds)  # type: ignore[arg-type]


def test_compiling_is_decided_by_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXNIHILO_CACHE", str(tmp_path))
    monkeypatch.setattr(compiling, "unavailable", lambda device: None)
    assert not decide("off", 1e9).on and decide("on", 0.0).on
    assert not decide("auto", 60.0).on and decide("auto", 1e6).on
    assert "60 s" in decide("auto", 60.0).why and "not measured" in decide("auto", 60.0).why
    compiling.remember(CPU, 2.0, 0.5)  # quick, but perhaps only because torch knew that code
    assert compiling.known(CPU).seconds == compiling.LEAST
    assert not decide("auto", 60.0).on and decide("auto", 100.0).on
    assert "measured here before" in decide("auto", 60.0).why
    compiling.remember(CPU, 90.0, -0.1)  # and now it does not help
    compiling.remember(CPU, 2.0, -0.1)
    assert not decide("auto", 1e6).on and compiling.known(CPU).seconds == 90.0
    next((tmp_path / "compile").iterdir()).write_text("{")
    assert compiling.known(CPU) == compiling.FIRST["cpu"]  # an unreadable note is as none


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "C++ compiler" in decide("auto", 1e9).why and not decide("auto", 1e9).on
    assert not decide("on", 1e9).on  # the loop turns this into an error


def test_compiled_blocks_are_called_and_can_be_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def pretend(function: object, **how: object) -> object:
        assert how == {"dynamic": False}

        def inner(*args: object) -> object:
            calls.append(function)
            return function(*args)  # type: ignore[operator]

        return inner

    monkeypatch.setattr(torch, "compile", pretend)
    for recompute, whole, modules in ((False, 12, 1), (False, 2, 3), (True, 12, 3)):
        monkeypatch.setattr(compiling, "WHOLE", whole)
        calls.clear()
        plain, model = build(CONFIG, seed=1), build(CONFIG, seed=1)
        if recompute:
            checkpoint_blocks(model)
        assert compiling.compile_blocks(model) == modules and compiling.compiled(model)
        found = gradients(model)
        assert len(calls) == (6 if recompute else modules)
        assert all(torch.equal(a, b) for a, b in zip(gradients(plain), found, strict=True))
        compiling.undo(model)
        calls.clear()
        model({"tokens": TOKENS})
        assert not calls and not compiling.compiled(model)
