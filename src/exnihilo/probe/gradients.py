"""Influence by gradients: a screen over all positions in one backward pass a site, and integrated gradients.

::

    gradient_norms(subject, rows, sites=[-1]).nats_QT        # norms, not nats
    integrated_gradients(subject, rows).nats_QT              # |share of each position in log p|

Source: Sundararajan et al. 2017 (integrated gradients, arXiv:1703.01365). The norm is Fisher's: how far a
small change of an embedding moves the distribution.

Key: N texts, T positions, Q sites, V outcomes, K coordinates, D model width
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import contextmanager

import numpy as np
import torch

from exnihilo.errors import UsageError
from exnihilo.probe.found import Influence
from exnihilo.probe.rows import Given, Rows
from exnihilo.probe.subject import Subject, detached


@contextmanager
def quiet(subject: Subject):
    """Evaluation mode for a block, then as it was."""
    training = subject.model.training
    subject.model.eval()
    try:
        yield
    finally:
        subject.model.train(training)


@contextmanager
def frozen(subject: Subject):
    """No gradients of weights within."""
    kept = [(p, p.requires_grad) for p in subject.model.parameters()]
    for p, _ in kept:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, learns in kept:
            p.requires_grad_(learns)


def sites_of(subject: Subject, T: int, sites: Sequence[int] | None) -> tuple[int, ...]:
    """Sites of a text of T positions, from 0; (-1,) where the text is one.

    Raises:
        UsageError: none, or one beyond the text.
    """
    if subject.single:
        return (-1,)
    found = tuple(range(T)) if sites is None else tuple(s % T if -T <= s < T else s for s in sites)
    wrong = [s for s in found if not 0 <= s < T]
    if wrong or not found:
        raise UsageError(f"site {wrong or 'none'} of {T} positions", expected=f"0 .. {T - 1}")
    return found


def one_length(subject: Subject, rows: Rows, sites: Sequence[int] | None) -> tuple[int, tuple[int, ...]]:
    """(the longest text's positions, sites for all): chosen sites need texts of one length.

    Raises:
        UsageError: texts of several lengths, and sites are chosen of them.
    """
    longest = max(rows.lengths)
    if sites is not None and not subject.single and min(rows.lengths) != longest:
        raise UsageError(
            f"sites {list(sites)} of texts of {min(rows.lengths)} to {longest} positions",
            expected="texts of one length",
            next="cut them: rows.cut(length)",
        )
    return longest, sites_of(subject, longest, sites)


def gradient_norms(
    subject: Subject, rows: Given, *, sites: Sequence[int] | None = None, seed: int = 0
) -> Influence:
    """A cheap screen: how strongly the distribution at a site follows each embedding, by its gradient.

    For each site one backward pass, of a random-sign sum of its coordinates (`Said.coordinates`: of discrete
    outcomes log-probabilities weighted by √p): its squared norm is an unbiased estimate of the squared Fisher
    norm of the Jacobian, which is what a small change of the embedding moves the distribution by (in nats, to
    second order).

    Returns:
        An `Influence` whose values are norms, not nats.
    """
    begun = time.perf_counter()
    rows = Rows.of(rows, subject.model.config.inputs)
    T, sites_Q = one_length(subject, rows, sites)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    out_NQT = np.full((len(rows), len(sites_Q), T), np.nan)
    passes = 0
    with quiet(subject), torch.enable_grad(), frozen(subject):
        for n, length in enumerate(rows.lengths):
            raw = rows.batch(n, subject.device)
            seq = subject.embed(raw)
            x_1TD = seq.x_BTD.detach().requires_grad_(True)
            mine = sites_Q if subject.single else tuple(s for s in sites_Q if s < length)
            asked = None if subject.single else mine
            value_QK = subject.after(detached(seq, x_1TD), asked, raw).coordinates()[0]
            signs_QK = torch.randint(0, 2, value_QK.shape, generator=generator).to(value_QK) * 2 - 1
            value_Q = (value_QK * signs_QK).sum(-1)
            for q in range(len(mine)):
                (grad_1TD,) = torch.autograd.grad(value_Q[q], x_1TD, retain_graph=q + 1 < len(mine))
                out_NQT[n, q, :length] = grad_1TD[0].norm(dim=-1).double().cpu().numpy()
            passes += 1 + 2 * len(mine)
    lengths = None if min(rows.lengths) == T else rows.lengths
    return Influence(out_NQT, sites_Q, time.perf_counter() - begun, passes, subject.causal, lengths)


def integrated_gradients(
    subject: Subject,
    rows: Given,
    *,
    site: int = -1,
    targets: Sequence[int] | None = None,
    steps: int = 32,
) -> Influence:
    """The share of each position in log p(target) at a site, against the mean embedding of the text.

    Args:
        targets: one outcome a text; default: the likeliest one.
        steps: of the path's midpoint rule.

    Returns:
        An `Influence` of absolute values (nats); their signed sum is log p(target | text) − log p(target |
        baseline), up to the path's error (completeness).

    Raises:
        UsageError: the model says numbers, or several things at a site: there is no one outcome.
    """
    begun = time.perf_counter()
    rows = Rows.of(rows, subject.model.config.inputs)
    T = max(rows.lengths)
    sites_Q = (-1,) if subject.single else sites_of(subject, min(rows.lengths), [site])
    out_NQT = np.full((len(rows), 1, T), np.nan)
    for n, length in enumerate(rows.lengths):
        signed_T, _ = signed_gradients(
            subject, rows, n=n, site=sites_Q[0], target=None if targets is None else targets[n], steps=steps
        )
        out_NQT[n, 0, :length] = np.abs(signed_T)
    seconds = time.perf_counter() - begun
    return Influence(out_NQT, sites_Q, seconds, len(rows) * (1 + 3 * steps), subject.causal)


def signed_gradients(
    subject: Subject, rows: Given, *, site: int, target: int | None, n: int = 0, steps: int = 32
) -> tuple[np.ndarray, float]:
    """(signed integrated gradients of each position of text n, the difference that they should add up to), in
    nats; `rows` may also be the tokens of one text."""
    if isinstance(rows, np.ndarray) and rows.ndim == 1:
        rows = rows[None]
    rows = Rows.of(rows, subject.model.config.inputs)
    asked = None if subject.single else [site]
    with quiet(subject), torch.enable_grad(), frozen(subject):
        raw = rows.batch(n, subject.device)
        seq = subject.embed(raw)
        x_1TD = seq.x_BTD.detach()
        base_1TD = x_1TD.mean(1, keepdim=True).expand_as(x_1TD)
        try:
            whole_V = subject.after(detached(seq, x_1TD), asked, raw).logp()[0, 0]
        except ValueError as error:
            raise UsageError(
                f"integrated gradients: {error}", expected="one outcome a site", next="use resampling"
            ) from error
        aim = int(whole_V.argmax()) if target is None else int(target)
        blank = float(subject.after(detached(seq, base_1TD), asked, raw).logp()[0, 0, aim])
        total_1TD = torch.zeros_like(x_1TD)
        for step in range(steps):
            share = (step + 0.5) / steps
            at_1TD = (base_1TD + share * (x_1TD - base_1TD)).requires_grad_(True)
            value = subject.after(detached(seq, at_1TD), asked, raw).logp()[0, 0, aim]
            total_1TD += torch.autograd.grad(value, at_1TD)[0]
        signed_T = ((x_1TD - base_1TD) * total_1TD / steps).sum(-1)[0]
    return signed_T.double().cpu().numpy(), float(whole_V[aim]) - blank
