"""Presets by name: each is a choice of pieces, and every piece can be overridden.

    preset         advantage     ratio     clip             tokens are added up
    field          r − μ         token     0.2 / 0.28       Σ / all tokens of the batch
    grpo           (r − μ)/σ     token     0.2 / 0.2        mean of each completion, mean over completions
    dr_grpo        r − μ         token     0.2 / 0.2        Σ / a constant length, mean over completions
    dapo           (r − μ)/σ     token     0.2 / 0.28       Σ / all tokens; dynamic sampling, overlong shaping
    gspo           (r − μ)/σ     sequence  3e-4 / 4e-4      mean of each completion, mean over completions
    cispo          (r − μ)/σ     token     weight at most 5 Σ / all tokens
    rloo           r − others' μ none                       Σ of each completion, mean over completions
    reinforce_pp   whitened over token     0.2 / 0.2        Σ / all tokens
                   the batch
    maxrl          (r − μ)/μ     none                       Σ of each completion, mean over completions
    ppo            GAE (critic)  token     0.2 / 0.2        Σ / all tokens

``field`` is what most runs of 2025-26 have converged on. β is 0 everywhere unless asked for; `kl` and
`kl_in_reward` say where the paper's divergence goes when it is (GRPO's in the loss as k3, RLOO's,
REINFORCE++'s and PPO's in the reward).

References: see `advantages` and `losses`; PPO with GAE on language: Ouyang et al. 2022, arXiv:2203.02155.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from exnihilo.errors import ConfigError
from exnihilo.objective._rl.advantages import Kind
from exnihilo.objective._rl.losses import Aggregation, Clip, Divergence, Ratio

Preset = Literal["field", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "reinforce_pp", "maxrl", "ppo"]


@dataclass(frozen=True)
class Pieces:
    """What a policy loss is made of.

    Attributes:
        advantage: see `advantages.of_groups`; ``batch`` is whitened over a batch's tokens, ``gae`` has a
            critic.
        ratio, clip, low, high, dual: see `losses`.
        kl: the divergence in the loss, where beta > 0 and it is not in the reward.
        beta: its weight.
        kl_in_reward: β·log(π_old/π_ref) is taken off the reward instead.
        aggregate: how tokens are added up. length: of ``constant``; 0: the most new tokens of a rollout.
        dynamic: groups without any spread of rewards are replaced by further prompts.
        overlong: share of the most new tokens over which the length punishment grows to −1.
        gamma, lam: of GAE. value_weight, value_clip: of the critic's loss.
    """

    advantage: Kind = "mean"
    ratio: Ratio = "token"
    clip: Clip = "ppo"
    low: float = 0.2
    high: float = 0.28
    dual: float | None = None
    kl: Divergence = "k3_weighted"
    beta: float = 0.0
    kl_in_reward: bool = False
    aggregate: Aggregation = "token"
    length: float = 0.0
    dynamic: bool = False
    overlong: float = 0.0
    gamma: float = 1.0
    lam: float = 0.95
    value_weight: float = 0.5
    value_clip: float | None = None

    @property
    def critic(self) -> bool:
        """Whether a value head is trained beside."""
        return self.advantage == "gae"

    @property
    def referenced(self) -> bool:
        """Whether the reference's log-probabilities are needed."""
        return self.beta > 0 and (self.kl_in_reward or self.kl != "none")


PRESETS: dict[str, Pieces] = {
    "field": Pieces(),
    "grpo": Pieces("std", high=0.2, kl="k3", aggregate="sequence"),
    "dr_grpo": Pieces("mean", high=0.2, aggregate="constant"),
    "dapo": Pieces("std", dynamic=True, overlong=0.2),
    "gspo": Pieces("std", ratio="sequence", low=3e-4, high=4e-4, aggregate="sequence"),
    "cispo": Pieces("std", clip="cispo", low=1.0, high=4.0),
    "rloo": Pieces("loo", clip="none", kl_in_reward=True, aggregate="sum"),
    "reinforce_pp": Pieces("batch", high=0.2, kl_in_reward=True),
    "maxrl": Pieces("maxrl", clip="none", aggregate="sum"),
    "ppo": Pieces("gae", high=0.2, kl_in_reward=True),
}


def pieces(preset: str, **overrides: Any) -> Pieces:
    """A preset's pieces, with those that are not None put in their place.

    Raises:
        ConfigError: pieces that contradict each other.

    >>> pieces("grpo", beta=0.04).kl, pieces("dapo").high
    ('k3', 0.28)
    """
    given = {k: v for k, v in overrides.items() if v is not None}
    unknown = set(given) - {f.name for f in fields(Pieces)}
    assert not unknown, unknown
    found = replace(PRESETS[preset], **given)
    if found.clip == "none" and found.ratio == "sequence":
        raise ConfigError(
            "options.ratio=sequence without a clip: REINFORCE has no ratio",
            expected="options.clip=ppo or cispo with it",
            next="leave options.ratio out",
        )
    if found.dual is not None and (found.clip != "ppo" or found.dual <= 1):
        raise ConfigError(
            f"options.dual={found.dual} with options.clip={found.clip}",
            expected="a number above 1, with options.clip=ppo",
            next="options.dual=3, or leave it out",
        )
    if found.beta > 0 and not found.kl_in_reward and found.kl == "none":
        raise ConfigError(
            f"options.beta={found.beta} with options.kl=none",
            expected="where the divergence goes",
            next="options.kl=k3_weighted, or options.kl_in_reward=true",
        )
    if not found.critic and ("lam" in given or "gamma" in given or "value_weight" in given):
        raise ConfigError(
            f"options of a critic with options.advantage={found.advantage}",
            expected="options.advantage=gae",
            next="options.preset=ppo, or leave gamma, lam and value_weight out",
        )
    return found
