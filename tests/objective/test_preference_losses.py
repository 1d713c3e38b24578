"""Each loss against its paper's formula, written out with plain numbers, and its gradient.

Key: P pairs
"""

# ruff: noqa: E741 - w and l are the y_w and y_l of the papers

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.objective import _preference_losses as room


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# (the loss under test of (log π(y_w), log π(y_l)), the paper's of the same) for given references and lengths:
# π_ref(y_w) = e^{-3}, π_ref(y_l) = e^{-2.5}, |y_w| = 4, |y_l| = 7
REF_W, REF_L, LEN_W, LEN_L = -3.0, -2.5, 4, 7
Function = Callable[[float, float], float]


def paper(name: str, beta: float, eps: float, gamma: float) -> Function:
    """The formula of the paper, with probabilities where it has probabilities."""

    def rdpo(w: float, l: float) -> float:
        # Rafailov et al. 2023, equation 7
        return beta * math.log(math.exp(w) / math.exp(REF_W)) - beta * math.log(math.exp(l) / math.exp(REF_L))

    def ell(x: float) -> float:
        return -math.log(sigmoid(x))

    def odds(mean: float) -> float:  # Hong et al. 2024, equation 4, of P = exp(mean log p), equation 3
        return math.exp(mean) / (1 - math.exp(mean))

    return {
        "dpo": lambda w, l: ell(rdpo(w, l)),
        # Mitchell 2023, equation 3
        "cdpo": lambda w, l: (
            -(1 - eps) * math.log(sigmoid(rdpo(w, l))) - eps * math.log(sigmoid(-rdpo(w, l)))
        ),
        # Chowdhury et al. 2024, the robust loss
        "robust": lambda w, l: ((1 - eps) * ell(rdpo(w, l)) - eps * ell(-rdpo(w, l))) / (1 - 2 * eps),
        # Azar et al. 2023, equation 17, of averages
        "ipo": lambda w, l: ((w - REF_W) / LEN_W - (l - REF_L) / LEN_L - 1 / (2 * beta)) ** 2,
        # Meng et al. 2024, equation 6
        "simpo": lambda w, l: -math.log(sigmoid(beta / LEN_W * w - beta / LEN_L * l - gamma)),
        # Hong et al. 2024, equation 7
        "orpo": lambda w, l: -math.log(sigmoid(math.log(odds(w / LEN_W) / odds(l / LEN_L)))),
        # D'Oosterlinck et al. 2024, equation 7
        "apo_zero": lambda w, l: (1 - sigmoid(beta * (w - REF_W))) + sigmoid(beta * (l - REF_L)),
        # Lambert et al. 2024, length-normalised
        "dpo_norm": lambda w, l: -math.log(sigmoid(beta / LEN_W * (w - REF_W) - beta / LEN_L * (l - REF_L))),
    }[name]


def ours(name: str, w: torch.Tensor, l: torch.Tensor, beta: float, eps: float, gamma: float) -> torch.Tensor:
    rw, rl = w - REF_W, l - REF_L
    return {
        "dpo": lambda: room.dpo(rw - rl, beta=beta),
        "cdpo": lambda: room.cdpo(rw - rl, beta=beta, smoothing=eps),
        "robust": lambda: room.robust(rw - rl, beta=beta, smoothing=eps),
        "ipo": lambda: room.ipo(rw / LEN_W - rl / LEN_L, beta=beta),
        "simpo": lambda: room.simpo(w / LEN_W - l / LEN_L, beta=beta, gamma=gamma),
        "orpo": lambda: room.orpo(w / LEN_W, l / LEN_L),
        "apo_zero": lambda: room.apo_zero(rw, rl, beta=beta),
        "dpo_norm": lambda: room.dpo(rw / LEN_W - rl / LEN_L, beta=beta),
    }[name]()


NAMES = ("dpo", "cdpo", "robust", "ipo", "simpo", "orpo", "apo_zero", "dpo_norm")
LOGP = st.floats(-9, -0.05)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(w=LOGP, l=LOGP, beta=st.floats(0.02, 3), eps=st.floats(0, 0.45), gamma=st.floats(0, 2))
def test_each_loss_and_its_gradient_are_the_papers(
    name: str,
    w: float,
    l: float,
    beta: float,
    eps: float,
    gamma: float,
) -> None:
    literal = paper(name, beta, eps, gamma)
    a, b = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (w, l))
    loss = ours(name, a, b, beta, eps, gamma)
    assert loss.item() == pytest.approx(literal(w, l), rel=1e-9, abs=1e-12)
    grad_w, grad_l = torch.autograd.grad(loss.sum(), [a, b], allow_unused=True)
    step = 1e-6
    slope_w = (literal(w + step, l) - literal(w - step, l)) / (2 * step)
    slope_l = (literal(w, l + step) - literal(w, l - step)) / (2 * step)
    assert grad_w.item() == pytest.approx(slope_w, rel=1e-5, abs=1e-7)
    assert grad_l.item() == pytest.approx(slope_l, rel=1e-5, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(r=st.floats(-30, 30), z=st.floats(0, 5), beta=st.floats(0.02, 2), good=st.booleans())
def test_kto_is_the_papers(r: float, z: float, beta: float, good: bool) -> None:
    ratio = torch.tensor([r], dtype=torch.float64, requires_grad=True)
    point = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    loss = room.kto(ratio, torch.tensor([good]), point, beta=beta, desirable=1.3, undesirable=0.7)
    # Ethayarajh et al. 2024, equation 7: λ_y − v(x, y)
    v = 1.3 * sigmoid(beta * (r - z)) if good else 0.7 * sigmoid(beta * (z - r))
    assert loss.item() == pytest.approx((1.3 if good else 0.7) - v, rel=1e-9, abs=1e-12)
    grad, none = torch.autograd.grad(loss.sum(), [ratio, point], allow_unused=True)
    slope = (-1.3 if good else 0.7) * beta * sigmoid(beta * (r - z)) * sigmoid(-beta * (r - z))
    assert grad.item() == pytest.approx(slope, rel=1e-7, abs=1e-14) and none is None


def test_dpo_has_the_gradient_of_its_paper() -> None:
    """Rafailov et al. 2023, section 4: −β σ(r̂_l − r̂_w) [∇log π(y_w) − ∇log π(y_l)]."""
    delta = torch.linspace(-40, 40, 41, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(room.dpo(delta, beta=0.3).sum(), delta)
    torch.testing.assert_close(grad, -0.3 * torch.sigmoid(-0.3 * delta.detach()))


def test_robust_is_unbiased_under_flipped_labels() -> None:
    """Its mean over flipped labels is dpo's on the true ones (Chowdhury et al. 2024)."""
    delta = torch.linspace(-5, 5, 11, dtype=torch.float64)
    for eps in (0.0, 0.1, 0.4):
        mean = (1 - eps) * room.robust(delta, beta=0.5, smoothing=eps)
        mean = mean + eps * room.robust(-delta, beta=0.5, smoothing=eps)
        torch.testing.assert_close(mean, room.dpo(delta, beta=0.5))


def test_conservative_dpo_stops_at_the_share_that_it_believes() -> None:
    """Its gradient is 0 where σ(βΔ) = 1 − ε (Mitchell 2023)."""
    delta = torch.tensor([math.log(0.8 / 0.2) / 0.1], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(room.cdpo(delta, beta=0.1, smoothing=0.2).sum(), delta)
    assert abs(grad.item()) < 1e-12


@pytest.mark.parametrize("far", [-1e4, 1e4])
def test_far_away_nothing_overflows(far: float) -> None:
    delta = torch.tensor([far], requires_grad=True)
    less = torch.tensor([-abs(far)], requires_grad=True)
    near = torch.tensor([-1e-12], requires_grad=True)
    good = torch.tensor([True])
    for loss in (
        room.dpo(delta, beta=1.0),
        room.cdpo(delta, beta=1.0, smoothing=0.1),
        room.robust(delta, beta=1.0, smoothing=0.1),
        room.simpo(delta, beta=1.0, gamma=0.5),
        room.apo_zero(delta, -delta, beta=1.0),
        room.kto(delta, good, 0.0, beta=1.0),
        room.bradley_terry(delta, -delta),
        room.orpo(near, less),
        room.orpo(less, near),
    ):
        found = torch.autograd.grad(loss.sum(), [delta, less, near], allow_unused=True)
        assert torch.isfinite(loss).all()
        assert all(torch.isfinite(g).all() for g in found if g is not None)


def test_bradley_terry_is_a_logistic_loss_of_scores() -> None:
    a, b = torch.tensor([1.5, -2.0], dtype=torch.float64), torch.tensor([0.5, 3.0], dtype=torch.float64)
    want = [-math.log(math.exp(x) / (math.exp(x) + math.exp(y))) for x, y in zip(a, b, strict=True)]
    assert room.bradley_terry(a, b).tolist() == pytest.approx(want)
