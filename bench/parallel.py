"""Fully parallel training, shown: T predictions in one pass, and the same T predictions one after another.

    python bench/parallel.py [--lengths 64 128 256 512 1024] [--depth 4] [--rounds 3]

A transformer predicts every next token of a text in one pass, since no position waits for the state of the
one before it. The same numbers come out one position at a time, with the keys and values kept (what a
recurrent network would have to do, and what generation does), or with the whole prefix read anew each time.
Log-probabilities of all three are compared first; times are medians of rounds in turns, forward only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from common import median, row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--anew", type=int, default=256, help="longest text that is also read anew each time")
    a = parser.parse_args()
    from exnihilo.config import ModelConfig
    from exnihilo.infer.cache import StaticCache
    from exnihilo.model import build, parameters, resolve

    config = resolve(ModelConfig(depth=a.depth, vocab_size=4096, context=max(a.lengths)))
    model = build(config, seed=0).eval()
    head = model.heads["tokens"]
    for T in a.lengths:
        tokens_1T = torch.randint(0, 4096, (1, T), generator=torch.Generator().manual_seed(T))

        def parallel(tokens_1T: torch.Tensor = tokens_1T) -> torch.Tensor:
            return head.logits(model({"tokens": tokens_1T}))[0].log_softmax(-1)  # type: ignore[operator]

        def one_by_one(tokens_1T: torch.Tensor = tokens_1T) -> torch.Tensor:
            cache, out = StaticCache.of(model, rows=1), []
            for t in range(tokens_1T.shape[1]):
                at = {"tokens": tokens_1T[:, t : t + 1], "pos": torch.tensor([[t]])}
                out.append(head.logits(model(at, cache=cache))[0].log_softmax(-1))  # type: ignore[operator]
            return torch.cat(out)

        def anew(tokens_1T: torch.Tensor = tokens_1T) -> torch.Tensor:
            found = []
            for t in range(tokens_1T.shape[1]):
                hidden_1TD = model({"tokens": tokens_1T[:, : t + 1]})
                found.append(head.logits(hidden_1TD[:, -1:])[0].log_softmax(-1))  # type: ignore[operator]
            return torch.cat(found)

        ways: dict[str, Callable[[], torch.Tensor]] = {"parallel": parallel, "one_by_one": one_by_one}
        if a.anew >= T:
            ways["prefix_anew"] = anew
        with torch.inference_mode():
            want = parallel()
            others = {name: way for name, way in ways.items() if name != "parallel"}
            worst = {name: float((way() - want).abs().max()) for name, way in others.items()}
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(a.rounds):
                for name, way in ways.items():
                    begun = time.perf_counter()
                    way()
                    times[name].append(time.perf_counter() - begun)
        ms = {name: round(1000 * median(values), 2) for name, values in times.items()}
        row(
            "parallel",
            T=T,
            parameters=parameters(config),
            milliseconds=ms,
            times_faster={name: round(value / ms["parallel"], 1) for name, value in ms.items()},
            largest_difference={name: float(f"{value:.1e}") for name, value in worst.items()},
        )


if __name__ == "__main__":
    main()
