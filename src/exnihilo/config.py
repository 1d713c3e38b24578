"""The configuration of a run: frozen, validated, unknown keys refused with the nearest name.

Layers, later ones win: defaults < recipe < ``--with overlay.toml`` < ``key.path=value``. A recipe is a Python
function that returns a `RunConfig`; `layers.py` merges them and remembers where each value came from.
Values left ``None`` are *derived* (from the size dial, the codec or a measurement on this machine); the run
folder's ``config.toml`` holds what they became.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A frozen group of options."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class SourceConfig(Section):
    """One source of examples.

    ``path`` is a file, a folder, a glob, ``-`` (standard input), ``world`` or ``world:N`` (the embedded
    world, N documents), or ``hub:owner/name[/config][:split]`` (a Hugging Face hub name).
    """

    path: str
    name: str | None = None  # default: derived from the path
    weight: float | None = Field(default=None, gt=0)  # share in a mixture; default: by size and temperature
    fields: dict[str, str] = {}  # role -> column, e.g. {"text": "body"}; default: detected and shown


def _sources(value: Any) -> Any:
    """`data=PATH` and `data=[A, B]` are short for `data.sources=[{path=...}]`."""
    if isinstance(value, (str, Path)):
        return {"sources": [{"path": str(value)}]}
    if isinstance(value, (list, tuple)):
        return {"sources": [{"path": str(v)} if isinstance(v, (str, Path)) else v for v in value]}
    return value


def _listed(value: Any) -> Any:
    """`data.columns=label,title` and `data.columns=[label,title]` need no quotes."""
    if isinstance(value, str):
        return [name.strip() for name in value.strip().removeprefix("[").removesuffix("]").split(",")]
    return value


class DataConfig(Section):
    """Where examples come from and how raw files become documents."""

    sources: tuple[SourceConfig, ...] = ()
    temperature: float = Field(
        default=1.0, gt=0
    )  # mixture weights ∝ size^(1/temperature) where none is given
    unit: Literal["auto", "file", "paragraph", "line"] = "auto"  # what one document is, in plain text files
    separator: str | None = None  # a line that ends a document; default: `<|endoftext|>` where a file has it
    encoding: str = "utf-8"
    # what files hold; auto: by suffix and content, shown; bytes: any file, each byte (with codec.kind=bytes)
    format: Literal["auto", "text", "records", "squad", "conll", "conllu", "labelled", "bytes"] = "auto"
    columns: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()  # names, for tables without a header
    header: bool | None = None  # whether tables have one; default: by content
    quotes: bool | None = None  # whether " quotes cells; default: not where tabs divide them
    fields: dict[str, str] = {}  # role -> column, for every source that does not say its own
    # files of sounds, pictures: how their names are made, e.g. "{label}_{speaker}_{take}"; default: the
    # folder a file stands in is its label
    pattern: str | None = None
    group: str | None = (
        None  # a part of `pattern` (or a column): files that share it are on one side of the split
    )
    val_fraction: float = Field(default=0.05, ge=0, lt=1)  # share of documents held out, by document hash
    workers: int | None = Field(default=None, ge=1)  # reading and encoding threads; default: cores

    @model_validator(mode="before")
    @classmethod
    def _bare_source(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("sources"), (str, Path, list, tuple)):
            return {**value, **_sources(value["sources"])}
        return value


Data = Annotated[DataConfig, BeforeValidator(_sources)]


class CodecConfig(Section):
    """How text becomes ids: trained from scratch on the training split, or read from ``path``."""

    # marks: special tokens alone, for sounds and pictures; waves: one id a sample of a sound; ids: the
    # numbers of a .npy file, or of a text of numbers
    kind: Literal["bpe", "wordpiece", "bytes", "chars", "marks", "waves", "ids"] = "bpe"
    vocab_size: int = Field(
        default=4096, ge=2
    )  # target size, special tokens included; bytes and chars have their own
    ids: int | None = Field(default=None, ge=1)  # ids: how many; default: the data's largest and one
    path: str | None = None  # a folder with tokenizer.json: use it instead of training one
    sample_mb: float = Field(default=50.0, gt=0)  # megabytes of text the tokenizer is trained on
    lowercase: bool = False  # wordpiece only


class YarnConfig(Section):
    """YaRN: rotary positions of a model that was trained on shorter rows (Peng et al. 2023, arXiv
    2309.00071)."""

    factor: float = Field(default=4.0, gt=1)  # context / original
    # positions of the rows it was trained on; default: the context of init=, else context / factor
    original: int | None = Field(default=None, ge=2)
    beta_fast: float = Field(default=32.0, gt=0)  # turns in `original`: faster frequencies stay as they are
    beta_slow: float = Field(default=1.0, gt=0)  # slower ones are divided by the factor
    attention: float | None = Field(default=None, gt=0)  # factor of cos and sin; default: 0.1 ln(factor) + 1


class ModelConfig(Section):
    """The shape of a model. ``depth`` is the one dial; every ``None`` is derived from it and can be
    overridden."""

    family: str = "qwen3"  # a file in model/families/
    preset: str | None = None  # sizes by name: bert-tiny, -mini, -small, -medium, -base, -large
    depth: int = Field(default=4, ge=1)
    width: int | None = Field(default=None, ge=1)
    heads: int | None = Field(default=None, ge=1)
    kv_heads: int | None = Field(default=None, ge=1)
    head_dim: int | None = Field(default=None, ge=1)
    mlp_width: int | None = Field(default=None, ge=1)
    vocab_size: int | None = Field(default=None, ge=1)  # from the codec
    context: int = Field(default=256, ge=2)  # positions a training row has, and the model is declared for
    tied: bool = True  # output matrix = embedding matrix
    dropout: float = Field(default=0.0, ge=0, lt=1)
    rope_theta: float | None = Field(default=None, gt=0)  # default: the family's
    norm_eps: float | None = Field(default=None, gt=0)  # default: the family's
    outputs: tuple[str, ...] = (
        "tokens",
    )  # heads, by their names in model/heads.py; in a run the objective's
    segments: int | None = Field(default=None, ge=0)  # token types; default: bert 2, others 0
    labels: int | None = Field(default=None, ge=1)  # outputs of the heads classes and tags, from the data
    crf: bool = False  # the head tags also learns which tag follows which
    compares: bool = False  # the heads classes and span compare the means of two texts
    # local layers: in decoders a position sees itself and the window - 1 before it; modernbert: window // 2
    # to each side
    window: int | None = Field(default=None, ge=2)
    # each n-th layer sees everything: of decoders the last of n (default: none does), modernbert: the first
    global_every: int | None = Field(default=None, ge=1)
    local_theta: float | None = Field(default=None, gt=0)  # modernbert: rotary base of the local layers
    yarn: YarnConfig | None = None  # decoders: a longer context than the weights were trained on
    sinks: bool = False  # decoders: a learned logit a head that takes weight from all keys, as in gpt-oss
    # what positions hold that are no tokens, by name: (numbers,) is mapped linearly, (frames, numbers of
    # each) by two convolutions over time; from the objective
    inputs: dict[str, tuple[int, ...]] = {}
    # the head straight: a matrix from so many values of a series to so many ahead; from the objective
    straight: tuple[int, int] | None = None


class ScheduleConfig(Section):
    """Learning rate over the run, as a pure function of the step."""

    name: Literal["wsd", "cosine", "linear", "constant"] = "wsd"
    warmup: float = Field(default=0.02, ge=0)  # share of the run if < 1, else steps
    cooldown: float = Field(default=0.5, ge=0)  # wsd: share of the run if < 1, else steps
    final: float = Field(default=0.0, ge=0, le=1)  # last learning rate / peak


class OptimConfig(Section):
    """The optimiser. ``lr`` is the peak of the named optimiser; Muon trains matrices, AdamW the rest."""

    name: Literal["muon", "adamw", "sgd"] = "muon"
    lr: float | None = Field(default=None, gt=0)  # default by optimiser, size, and whether weights are given
    adamw_lr: float | None = Field(default=None, gt=0)  # muon only: embeddings, head, norms, biases
    momentum: float = Field(default=0.95, ge=0, lt=1)  # muon, sgd
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)  # matrices only: never norms, biases, embeddings
    clip: float | None = Field(default=1.0, gt=0)  # global gradient norm; none: no clipping
    schedule: ScheduleConfig = ScheduleConfig()


class BatchConfig(Section):
    """Batch sizes in tokens. ``micro_tokens`` is measured on this machine unless given; it never changes the
    result."""

    tokens: int = Field(default=16_384, ge=1)  # a step's tokens, over all workers and micro-batches
    micro_tokens: int | None = Field(default=None, ge=1)  # one forward's tokens on one worker
    # rows that grow: (share of the steps, positions of a row), the last one model.context
    lengths: tuple[tuple[Annotated[float, Field(gt=0)], Annotated[int, Field(ge=2)]], ...] = ()


class CheckpointConfig(Section):
    """Atomic checkpoints in ``RUN/checkpoints/``."""

    every: int | None = Field(default=None, ge=1)  # steps; default: about every two minutes and at the end
    keep: int = Field(default=2, ge=1)  # newest ones kept, besides the best
    best: bool = True  # keep the one with the lowest validation loss
    use: Literal["last", "best"] = "last"  # whose weights the run ends with; best: early stopping

    @model_validator(mode="after")
    def _check_use(self) -> CheckpointConfig:
        if self.use == "best" and not self.best:
            raise ValueError("use=best needs best=true: the best one must be kept")
        return self


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on a frozen model, through peft; merged into the
    weights before they are exported."""

    rank: int = Field(default=8, ge=1)
    alpha: float | None = Field(default=None, gt=0)  # scale is alpha / rank; default: twice the rank
    # modules that get one, by the end of their names; default: every linear layer of the trunk
    targets: tuple[str, ...] = ()
    # 4: what gets an adapter is kept in four bits a weight (NF4), as QLoRA does; none: as it is
    bits: Literal[4] | None = None


class TuneConfig(Section):
    """How much of a pretrained model is trained again."""

    # none: all; embeddings; a number n: embeddings and the first n layers; trunk: all but heads and pooler
    freeze: Annotated[int, Field(ge=0)] | Literal["none", "embeddings", "trunk"] = "none"
    # learning rate of layer l of L, of the head's: decay^(L + 1 - l); of the embeddings: decay^(L + 1)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    lora: LoraConfig | None = None


class ControlConfig(Section):
    """After fine-tuning: did pretraining help? The same network with and without it, in ``RUN/control``."""

    seeds: int | None = Field(default=None, ge=0)  # of each; default: 3 for a downstream type with init=


class EvalConfig(Section):
    """Evaluation inside the loop. It never changes what it evaluates: no random state, no mode is left
    behind."""

    every: int | None = Field(default=None, ge=1)  # steps; default: about ten times a run
    # at most this many tokens of the validation split; default: a small share of the run's, all at the end
    tokens: int | None = Field(default=None, ge=1)
    samples: int = Field(default=1, ge=0)  # texts written to RUN/samples/ at each evaluation
    # validation examples whose influence is measured at each evaluation: nats from the first position to the
    # last output, and reach; 0: none
    probe: int = Field(default=0, ge=0)
    prompt: str = ""  # what samples start from
    # validation prompts answered before the first step and after the last (a quarter of them on the way)
    replies: int = Field(default=256, ge=0)
    tries: int = Field(default=1, ge=1)  # replies to each prompt; above 1: pass@k, at eval.temperature
    temperature: float | None = Field(default=None, ge=0)  # of replies; default: 0, with several tries 1
    max_new_tokens: int | None = Field(default=None, ge=1)  # of a reply; default: rollout's, or the context


class GuardConfig(Section):
    """Non-finite losses and spikes are caught before the update: skip, then rewind to the last good
    checkpoint."""

    enabled: bool = True
    sigmas: float = Field(default=8.0, gt=0)  # a spike: loss above the running mean by this many deviations
    window: int = Field(default=128, ge=8)  # steps of history; skipped steps never enter it
    max_skips: int = Field(default=3, ge=1)  # consecutive skips before a rewind
    max_rewinds: int = Field(default=2, ge=0)  # rewinds before giving up


class RolloutConfig(Section):
    """Completions drawn to learn from, for objectives that need rollouts."""

    prompts: int = Field(default=8, ge=1)  # of a batch of rollouts, over all workers
    group: int = Field(default=8, ge=1)  # completions of each prompt
    max_new_tokens: int = Field(default=64, ge=1)  # of a completion, its stop token included
    temperature: float = Field(default=1.0, gt=0)  # of the sampler and of the trainer alike
    updates: int = Field(default=1, ge=1)  # optimiser steps a batch of rollouts is divided into
    # 0: rollouts are of the newest weights; n: a thread draws them from weights n batches old, meanwhile
    staleness: int = Field(default=0, ge=0)
    truncate: float = Field(default=2.0, gt=0)  # cap of is_weight, which corrects for stale or other samplers
    dynamic: bool = False  # groups whose rewards are all equal are replaced by further prompts
    rounds: int = Field(default=4, ge=1)  # dynamic: at most so many draws for one batch
    slots: int | None = Field(default=None, ge=1)  # completions decoded at once; default: by device
    engine: Literal["own", "vllm"] = "own"
    url: str | None = None  # engine=vllm: where its server is, e.g. http://127.0.0.1:8000
    folder: str | None = None  # engine=vllm: what it serves, written anew after updates; default: RUN/served
    keep: bool = True  # all rollouts stay in RUN/rollouts/, and any step can be replayed


class AlarmsConfig(Section):
    """Signs that learning from rewards or preferences goes wrong; each is said, written to
    RUN/alarms.json, and stops the run."""

    enabled: bool = True
    stop: bool = True  # false: alarms are said and written only
    patience: int = Field(default=10, ge=1)  # steps over which figures are averaged
    # mean |Δ log p| of sampler and trainer; default: 1e-4 in fp32, else 0.1
    drift: float | None = Field(default=None, gt=0)
    entropy: float = Field(default=0.05, ge=0, lt=1)  # below this share of what it was: collapse
    pass_k: float = Field(default=0.5, ge=0, lt=1)  # pass@k below this share of what it was: collapse
    length: float = Field(default=2.0, gt=0)  # so many times what it was, and most are cut: runaway
    # reward has risen by this much while the independent grader has not by a tenth of it: it is gamed
    gap: float = Field(default=0.2, gt=0)
    # of preferences: the log-probability of a chosen reply is so many times what it was: both replies sink
    likelihood: float = Field(default=2.0, ge=1)
    grader: str = ""  # the independent grader; e.g. "exact" beside a reward with parts


class ParallelConfig(Section):
    """How `torchrun` workers share the work."""

    mode: Literal["fsdp", "replicate"] = "fsdp"


class RunConfig(Section):
    """Everything a run needs. The same names on the command line, in TOML and in Python."""

    recipe: str = "gpt"
    objective: str = "causal_lm"  # a file in objective/, or a dotted path of the user's own
    options: dict[str, Any] = {}  # the objective's own options, checked by its Config
    run: str | None = None  # default: runs/RECIPE-TIME
    init: str | None = None  # a run or Hugging Face folder; default: pure randomness
    data: Data = DataConfig()
    val: Data | None = None  # default: a share of `data`, split by document hash
    codec: CodecConfig = CodecConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    batch: BatchConfig = BatchConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    guard: GuardConfig = GuardConfig()
    parallel: ParallelConfig = ParallelConfig()
    tune: TuneConfig = TuneConfig()
    control: ControlConfig = ControlConfig()
    reference: str = "init"  # what preferences and KL are measured from: init, a run or model folder, or none
    rollout: RolloutConfig = RolloutConfig()
    # what scores replies: exact, number, math, ... or my.py:grade; several with weights: number*1,length*0.1
    grader: str | tuple[str, ...] = ""
    environment: str = ""  # what answers the model's tool calls in rollouts, e.g. calculator
    alarms: AlarmsConfig = AlarmsConfig()
    steps: int | None = Field(default=None, ge=1)  # the budget: whichever of the four ends first
    tokens: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)  # passes over the training split's rows
    minutes: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)
    device: str = "auto"  # auto | cpu | cuda | mps
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: measured on this device
    compile: Literal["auto", "on", "off"] = "auto"  # auto: where the measured estimate says it pays back
    checkpointing: bool = False  # recompute activations in backward: less memory, about a third more time
    ema: float | None = Field(
        default=None, gt=0, lt=1
    )  # decay of an averaged copy of the weights, which is then exported
    threads: int | None = Field(default=None, ge=1)  # CPU threads; default: measured
