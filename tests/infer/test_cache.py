"""Decoding with a cache gives the logits of reading everything anew."""

from __future__ import annotations

import pytest
import torch

from exnihilo.errors import UsageError
from exnihilo.infer.cache import StaticCache
from exnihilo.model import Model


def hidden(model: Model, tokens: torch.Tensor, start: int | list[int], cache: StaticCache) -> torch.Tensor:
    starts = torch.tensor([start] * len(tokens) if isinstance(start, int) else start)
    pos = starts[:, None] + torch.arange(tokens.shape[1])
    return model({"tokens": tokens, "pos": pos}, cache=cache)


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[40], [1] * 40, [13, 27], [7, 1, 1, 31]])
def test_any_chunking_equals_one_forward(model, chunks):
    tokens = torch.randint(0, 97, (3, 40), generator=torch.Generator().manual_seed(0))
    whole = model({"tokens": tokens})
    cache, at, parts = StaticCache.of(model, rows=3), 0, []
    for size in chunks:
        parts.append(hidden(model, tokens[:, at : at + size], at, cache))
        at += size
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_rows_of_unequal_length_and_dropped_rows(model):
    """Right-padded prefill, then each row at its own position, then a row leaves."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(1, 97, (n,), generator=generator) for n in (20, 9, 14)]
    begins = [15, 4, 9]
    padded = torch.zeros(3, 15, dtype=torch.long)
    for b, n in enumerate(begins):
        padded[b, :n] = rows[b][:n]
    cache = StaticCache.of(model, rows=3)
    hidden(model, padded, 0, cache)
    live = [0, 1, 2]
    for step in range(5):
        tokens = torch.stack([rows[b][begins[b] + step] for b in live])[:, None]
        out = hidden(model, tokens, [begins[b] + step for b in live], cache)
        for r, b in enumerate(live):
            alone = model({"tokens": rows[b][None, : begins[b] + step + 1]})[0, -1]
            torch.testing.assert_close(out[r, 0], alone, atol=2e-5, rtol=1e-4)
        if step == 2:
            live = [2, 0]
            cache.keep([2, 0])
            assert cache.rows == 2


def make(limit: int = 1000, rows: int = 2) -> StaticCache:
    return StaticCache(layers=1, kv_heads=2, head_dim=4, rows=rows, limit=limit)


def test_it_grows_as_needed_and_hands_out_used_slots_only():
    cache = make()
    sizes = []
    for start, length in ((0, 3), (3, 1), (4, 70), (74, 500)):
        pos = torch.arange(start, start + length).expand(2, -1)
        new = torch.randn(2, 2, length, 4)
        keys, values = cache.write(0, new, new + 1, pos)
        assert keys.shape == values.shape == (2, 2, start + length, 4)
        assert keys[:, :, start:].equal(new) and values[:, :, start:].equal(new + 1)
        sizes.append(cache.capacity)
    assert sizes == [64, 64, 128, 1000]
    assert cache.nbytes == 2 * 2 * 2 * 1000 * 4 * 4


def test_growth_keeps_what_was_read():
    cache = make()
    first = torch.randn(2, 2, 60, 4)
    cache.write(0, first, -first, torch.arange(60).expand(2, -1))
    more = torch.randn(2, 2, 1, 4)
    keys, values = cache.write(0, more, more, torch.tensor([[60], [99]]))
    assert keys[:, :, :60].equal(first) and values[:, :, :60].equal(-first)
    assert keys[0, :, 60].equal(more[0, :, 0]) and keys[1, :, 99].equal(more[1, :, 0])
    assert keys.isfinite().all()


def test_a_position_past_the_limit_is_refused_with_both_numbers():
    cache = make(limit=10)
    new = torch.zeros(2, 2, 1, 4)
    cache.write(0, new, new, torch.tensor([[9], [9]]))
    with pytest.raises(UsageError, match="position 10 .* 10 slots"):
        cache.write(0, new, new, torch.tensor([[10], [3]]))


def test_under_autocast_the_cache_has_the_products_type(make_model):
    """Weights in fp32, products in bf16: keys and queries must still meet in one type."""
    model = make_model("qwen3")
    tokens = torch.randint(1, 97, (2, 12), generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        cache = StaticCache.of(model, rows=2)
        first = hidden(model, tokens[:, :7], 0, cache)
        rest = hidden(model, tokens[:, 7:], 7, cache)
        whole = model({"tokens": tokens})
    torch.testing.assert_close(torch.cat((first, rest), 1).float(), whole.float(), atol=0.15, rtol=0.1)
