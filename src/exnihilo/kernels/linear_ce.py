"""Negative log-likelihood of a linear head without ever holding its N×V logits.

The head's matrix product, the softmax and both gradients are done chunk by chunk of positions, so that
memory is chunk×V instead of N×V and the chunk's logits stay in the cache between the three matrix products::

    total, nll_N = linear_cross_entropy(hidden_ND, head.weight, targets_N)
    (total / count).backward()

`reference` is the same number as cross-entropy against one-hot targets: -Σ_v onehot_v · log
softmax(logits)_v.

Key: N positions (B·T flattened), D model width, V vocabulary, C positions of a chunk
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORE = -100
KEPT = 1 << 24  # probabilities kept for backward on a CPU at most (64 MB)


def reference(
    hidden_ND: Float[Tensor, "N D"],
    weight_VD: Float[Tensor, "V D"],
    targets_N: Int[Tensor, " N"],
    *,
    bias_V: Float[Tensor, " V"] | None = None,
    ignore: int = IGNORE,
) -> tuple[Float[Tensor, ""], Float[Tensor, " N"]]:
    """Plainly right, and holds everything: one-hot cross-entropy in the inputs' own precision (float64 where
    given)."""
    logits_NV = hidden_ND @ weight_VD.T
    if bias_V is not None:
        logits_NV = logits_NV + bias_V
    kept_N = targets_N != ignore
    onehot_NV = torch.nn.functional.one_hot(targets_N.where(kept_N, 0), weight_VD.shape[0]).to(
        logits_NV.dtype
    )
    nll_N = -(onehot_NV * logits_NV.log_softmax(-1)).sum(-1) * kept_N
    return nll_N.sum(), nll_N.detach()


def chunk_size(vocab: int, given: int | None = None, *, on_cpu: bool = True) -> int:
    """Positions a chunk holds: about 8 MB of logits on a CPU, 256 MB on an accelerator.

    At least 256 and 1024 of them: each chunk reads the whole matrix anew. Measured on 2 AVX2 cores, 4096
    positions, vocabulary 4096: chunks of 128 take 188 ms, of 512 178 ms, of 1024 174 ms.
    """
    if given is not None:
        return max(1, given)
    budget = (1 << 21) if on_cpu else (1 << 26)
    return max(256 if on_cpu else 1024, budget // vocab)


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


class _Room:
    """Two buffers that every chunk uses again: memory that was just written is still in cache."""

    def __init__(self, size: int, vocab: int, dtype: torch.dtype, wide: torch.dtype, device: Any) -> None:
        self.wide = wide
        self.first = torch.empty(size, vocab, dtype=dtype, device=device) if dtype == wide else None
        self.second = torch.empty(size, vocab, dtype=wide, device=device)

    def logits(self, h_CD: Tensor, weight_VD: Tensor) -> Tensor:
        """(C, V), in the wide type."""
        if self.first is None:
            return (h_CD @ weight_VD.T).to(self.wide)
        return torch.mm(h_CD, weight_VD.T, out=self.first[: len(h_CD)])

    def softmax(self, logits_CV: Tensor) -> Tensor:
        return torch.softmax(logits_CV, -1, out=self.second[: len(logits_CV)])


_RARE = 1e-20  # below, the logarithm of a float32 probability is not exact


def _nll(logits_CV: Tensor, p_CV: Tensor, y_C1: Tensor, on_cpu: bool) -> Tensor:
    """−log p(target), also where p(target) underflows."""
    p_C1 = p_CV.gather(1, y_C1)
    if on_cpu and not bool((p_C1 < _RARE).any()):
        return -p_C1.log().squeeze(1)
    # log Σ exp = top − log p(top): exact everywhere, for one more pass over the logits
    top_C1, at_C1 = logits_CV.max(-1, keepdim=True)
    return (top_C1 - p_CV.gather(1, at_C1).log() - logits_CV.gather(1, y_C1)).squeeze(1)


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are computed in forward: the gradient of a sum differs from them by one scalar only."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        bias_V: Tensor | None,
        chunk: int,
        ignore: int,
    ) -> tuple[Tensor, Tensor]:
        dtype = _compute_dtype(hidden_ND)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            return _LinearCrossEntropy._forward(
                ctx, hidden_ND, weight_VD, targets_N, bias_V, chunk, ignore, dtype
            )

    @staticmethod
    def _forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        bias_V: Tensor | None,
        chunk: int,
        ignore: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        need_h, need_w, _, need_b = ctx.needs_input_grad[:4]
        n = hidden_ND.shape[0]
        hidden, weight = hidden_ND.to(dtype), weight_VD.to(dtype)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        nll_N = torch.zeros(n, dtype=wide, device=hidden.device)
        grad_h = torch.zeros_like(hidden_ND) if need_h else None
        grad_w = torch.zeros(weight_VD.shape, dtype=wide, device=hidden.device) if need_w else None
        grad_b = torch.zeros(weight_VD.shape[0], dtype=wide, device=hidden.device) if need_b else None
        kept_N = targets_N != ignore
        on_cpu = hidden.device.type == "cpu"
        all_kept = on_cpu and bool(kept_N.all())  # elsewhere asking would stall the device
        size = min(chunk, n)
        room = _Room(size, weight.shape[0], dtype, wide, hidden.device)
        for start in range(0, n, chunk):
            part = slice(start, min(start + chunk, n))
            h_CD, kept_C = hidden[part], kept_N[part]
            y_C1 = targets_N[part].where(kept_C, 0).unsqueeze(1)
            logits_CV = room.logits(h_CD, weight)
            if bias_V is not None:
                logits_CV += bias_V
            p_CV = room.softmax(logits_CV)
            nll_N[part] = _nll(logits_CV, p_CV, y_C1, on_cpu) * kept_C
            if not (need_h or need_w or need_b):
                continue
            p_CV.scatter_add_(1, y_C1, p_CV.new_full((1, 1), -1.0).expand_as(y_C1))
            if not all_kept:
                p_CV *= kept_C.unsqueeze(1)
            if grad_b is not None:
                grad_b += p_CV.sum(0)
            low_CV = p_CV.to(dtype)
            if grad_h is not None:
                if grad_h.dtype == dtype:
                    torch.mm(low_CV, weight, out=grad_h[part])
                else:
                    grad_h[part] = low_CV @ weight
            if grad_w is not None:
                if dtype == wide:
                    grad_w.addmm_(low_CV.T, h_CD, beta=0.0 if start == 0 else 1.0)
                else:
                    grad_w += low_CV.T @ h_CD
        ctx.save_for_backward(*(t for t in (grad_h, grad_w, grad_b) if t is not None))
        ctx.have = (grad_h is not None, grad_w is not None, grad_b is not None)
        ctx.types = (hidden_ND.dtype, weight_VD.dtype, bias_V.dtype if bias_V is not None else None)
        ctx.mark_non_differentiable(nll_N)
        return nll_N.sum(), nll_N

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        saved = iter(ctx.saved_tensors)
        out = [
            (next(saved) * grad).to(kind) if have else None
            for have, kind in zip(ctx.have, ctx.types, strict=True)
        ]
        return out[0], out[1], None, out[2], None, None


def linear_cross_entropy(
    hidden_ND: Float[Tensor, "N D"],
    weight_VD: Float[Tensor, "V D"],
    targets_N: Int[Tensor, " N"],
    *,
    bias_V: Float[Tensor, " V"] | None = None,
    chunk: int | None = None,
    ignore: int = IGNORE,
) -> tuple[Float[Tensor, ""], Float[Tensor, " N"]]:
    """Σ −log p(target) in nats, and each position's own (detached; 0 where the target is ignored).

    Args:
        hidden_ND: hidden states. Under autocast the products run in its type, the softmax in float32.
        weight_VD: the head's matrix, e.g. the tied embedding.
        targets_N: ids below V, or `ignore`: no loss and no gradient.
        chunk: positions held at once; default by vocabulary and device.

    Example:
        >>> h, w = torch.zeros(3, 4), torch.zeros(10, 4)
        >>> round(linear_cross_entropy(h, w, torch.tensor([1, 2, -100]))[0].item() / 2, 4)  # ln 10
        2.3026
    """
    size = chunk_size(weight_VD.shape[0], chunk, on_cpu=hidden_ND.device.type == "cpu")
    if not torch.is_grad_enabled():  # else a Parameter would have its gradient computed, for nothing
        hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
        bias_V = None if bias_V is None else bias_V.detach()
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, targets_N, bias_V, size, ignore)  # type: ignore


class _Logprobs(torch.autograd.Function):
    """Any gradient of the log-probabilities is allowed, so the softmax is needed again in backward: kept
    where it is small, else computed anew."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        bias_V: Tensor | None,
        chunk: int,
        temperature: float,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        dtype = _compute_dtype(hidden_ND)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        N, V = hidden_ND.shape[0], weight_VD.shape[0]
        out_N = torch.empty(N, dtype=wide, device=hidden_ND.device)
        entropy_N = torch.empty(N if entropy else 0, dtype=wide, device=hidden_ND.device)
        keep = any(ctx.needs_input_grad) and N * V <= (KEPT if hidden_ND.device.type == "cpu" else 16 * KEPT)
        kept: list[Tensor] = []
        with torch.autocast(hidden_ND.device.type, enabled=False):
            weight = weight_VD.to(dtype)
            for start in range(0, N, chunk):
                part = slice(start, start + chunk)
                logits_CV = _scaled_logits(hidden_ND[part].to(dtype), weight, bias_V, temperature, wide)
                sum_C1 = logits_CV.logsumexp(-1, keepdim=True)
                out_N[part] = (logits_CV.gather(1, targets_N[part].unsqueeze(1)) - sum_C1).squeeze(1)
                if not (keep or entropy):
                    continue
                p_CV = (logits_CV - sum_C1).exp_()
                if entropy:  # log Σ exp − Σ p·logit; p·logit is 0 where a logit is −inf
                    pull_CV = torch.where(p_CV > 0, p_CV * logits_CV, 0.0)
                    entropy_N[part] = sum_C1.squeeze(1) - pull_CV.sum(-1)
                if keep:
                    kept.append(p_CV)
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, bias_V, *kept)
        ctx.chunk, ctx.temperature, ctx.dtype, ctx.wide = chunk, temperature, dtype, wide
        ctx.mark_non_differentiable(entropy_N)
        return out_N, entropy_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden_ND, weight_VD, targets_N, bias_V, *kept = ctx.saved_tensors
        need_h, need_w, _, need_b = ctx.needs_input_grad[:4]
        grad_h = torch.empty_like(hidden_ND) if need_h else None
        grad_w = torch.zeros(weight_VD.shape, dtype=ctx.wide, device=weight_VD.device) if need_w else None
        grad_b = torch.zeros(weight_VD.shape[0], dtype=ctx.wide, device=weight_VD.device) if need_b else None
        with torch.autocast(hidden_ND.device.type, enabled=False):
            weight = weight_VD.to(ctx.dtype)
            for number, start in enumerate(range(0, hidden_ND.shape[0], ctx.chunk)):
                part = slice(start, start + ctx.chunk)
                h_CD = hidden_ND[part].to(ctx.dtype)
                g_C1 = (grad_N[part] / ctx.temperature).unsqueeze(1)
                if kept:
                    p_CV = kept[number] * -g_C1
                else:
                    logits_CV = _scaled_logits(h_CD, weight, bias_V, ctx.temperature, ctx.wide)
                    p_CV = torch.softmax(logits_CV, -1).mul_(-g_C1)
                p_CV.scatter_add_(1, targets_N[part].unsqueeze(1), g_C1)
                low_CV = p_CV.to(ctx.dtype)
                if grad_h is not None:
                    grad_h[part] = (low_CV @ weight).to(grad_h.dtype)
                if grad_w is not None:
                    grad_w += low_CV.T @ h_CD
                if grad_b is not None:
                    grad_b += p_CV.sum(0)
        return (
            grad_h,
            None if grad_w is None else grad_w.to(weight_VD.dtype),
            None,
            None if grad_b is None else grad_b.to(bias_V.dtype),
            None,
            None,
            None,
        )


def _scaled_logits(
    h_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, temperature: float, wide: torch.dtype
) -> Tensor:
    logits_CV = (h_CD @ weight_VD.T).to(wide)
    if bias_V is not None:
        logits_CV = logits_CV + bias_V
    return logits_CV if temperature == 1.0 else logits_CV / temperature


def logprobs(
    hidden_ND: Float[Tensor, "N D"],
    weight_VD: Float[Tensor, "V D"],
    targets_N: Int[Tensor, " N"],
    bias_V: Float[Tensor, " V"] | None = None,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    chunk: int | None = None,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]:
    """log p(target) of each position at a temperature, differentiable with any gradient; and its entropy.

    Args:
        hidden_ND, weight_VD, bias_V: the head's input and matrix. Under autocast the products run in its
            type, the softmax in float32.
        targets_N: ids below V; mask the result where a position does not count.
        temperature: logits are divided by it, for both results.
        entropy: also give the entropy of each position's distribution, detached.
        chunk: positions held at once; default by vocabulary and device.

    Returns:
        (log p (N,), entropy (N,) or None), nats.

    Example:
        >>> h_ND, w_VD, y_N = torch.zeros(1, 4), torch.zeros(8, 4), torch.tensor([3])
        >>> logp_N, entropy_N = logprobs(h_ND, w_VD, y_N, entropy=True)
        >>> logp_N.exp().item(), round(entropy_N.exp().item(), 4)
        (0.125, 8.0)
    """
    size = chunk_size(weight_VD.shape[0], chunk, on_cpu=hidden_ND.device.type == "cpu")
    if not torch.is_grad_enabled():  # else a Parameter would have the softmax kept, for nothing
        hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
        bias_V = None if bias_V is None else bias_V.detach()
    logp_N, entropy_N = _Logprobs.apply(  # type: ignore
        hidden_ND, weight_VD, targets_N, bias_V, size, float(temperature), entropy
    )
    return logp_N, entropy_N if entropy else None


def token_logprobs(
    hidden_ND: Float[Tensor, "N D"],
    weight_VD: Float[Tensor, "V D"],
    targets_N: Int[Tensor, " N"],
    *,
    bias_V: Float[Tensor, " V"] | None = None,
    chunk: int | None = None,
    temperature: float = 1.0,
) -> Float[Tensor, " N"]:
    """log p(target) of each position at a temperature: `logprobs` without the entropy.

    Example:
        >>> token_logprobs(torch.zeros(1, 4), torch.zeros(8, 4), torch.tensor([3])).exp().item()
        0.125
    """
    return logprobs(hidden_ND, weight_VD, targets_N, bias_V, temperature=temperature, chunk=chunk)[0]
