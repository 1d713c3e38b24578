"""The verbs of the command line, as a table: what each takes, and the action it runs."""

from __future__ import annotations

from collections.abc import Iterator

from exnihilo.cli import actions, look, serve, talk
from exnihilo.cli import world as worlds
from exnihilo.cli.parse import Option, Verb

_JSON = {
    "json": "the last line of standard output is one JSON object with the figures; all else goes to stderr"
}
_WITH = {"with": Option("a TOML file of settings, between the recipe and the KEY=VALUE")}
_DEVICE = {"device": Option("auto, cpu, cuda or mps")}
_SAMPLING = {
    "prompt": Option("the text to go on from (or as the second word)"),
    "max_new_tokens": Option("tokens to write (128)", int, least=1),
    "temperature": Option("0 is greedy (1.0)", float, least=0),
    "top_k": Option("only the k likeliest tokens", int, least=1),
    "top_p": Option("only the likeliest tokens that hold this probability", float, least=0, most=1),
    "min_p": Option("only tokens at least this likely, relative to the likeliest", float, least=0, most=1),
    "seed": Option("the same seed gives the same text (0)", int, least=0),
    "n": Option("texts to write (1)", int, least=1),
    "stop": Option("end at this text; may be repeated", many=True),
    **_DEVICE,
}

_SUITES = {
    "suite": Option(
        "NAME[=PATH],... of lambada, multiple_choice, gsm8k, code, bits_per_byte, retrieval, positions; all; "
        "harness",
        many=True,
    ),
    "shots": Option("of a suite: solved examples shown before each question (0)", int, least=0),
    "shots_from": Option("of a suite: the file they come from (the first ones of the data)"),
    "chat": Option("of a suite: ask in turns (auto: where the model answers)", choices=("auto", "on", "off")),
    "stride": Option("of bits_per_byte: tokens that a window predicts (its context)", int, least=1),
    "tasks": Option("of harness: names of lm-evaluation-harness, or NAME=FILE of a local task"),
    "include": Option("of harness: a folder with further tasks"),
}


def _verbs() -> Iterator[Verb]:
    yield Verb(
        "quickstart",
        "from random weights to a model that answers, on the embedded world, each gain measured (8 minutes)",
        "exnihilo quickstart [--encoder] [--data PATH] [--minutes X] [--run DIR] [--seed N]",
        actions.quickstart,
        options={
            "data": Option("your own files instead of the embedded world: file, folder, glob or hub:NAME"),
            "minutes": Option("minutes of pretraining (about 2: eight minutes in all)", float, least=0.01),
            "run": Option("the run folder (runs/quickstart)"),
            "seed": Option("of weights, data order and samples (0)", int, least=0),
            **_DEVICE,
        },
        flags={
            "encoder": "BERT's training instead: masked tokens, next sentences, then four tasks (5 minutes)",
            "force": "replace the run folder",
            **_JSON,
        },
        examples=("exnihilo quickstart", "exnihilo quickstart --encoder"),
    )
    yield Verb(
        "train",
        "train a model; every training type",
        "exnihilo train RECIPE data=PATH [KEY=VALUE ...] [--resume] [--dry-run] [--with FILE.toml]",
        actions.train,
        positionals=("RECIPE",),
        options=_WITH,
        flags={
            "resume": "go on from the newest checkpoint of run=DIR, bit for bit",
            "dry_run": "show every setting, where it comes from, and the plan; train nothing",
            "force": "resume although settings changed, or replace a run folder",
            **_JSON,
        },
        settings=True,
        examples=(
            "exnihilo train gpt data=books/ minutes=10 run=runs/books",
            "exnihilo train gpt data=a.jsonl.gz data.temperature=2 model.depth=8 optim.schedule.name=cosine",
            "exnihilo train chat data=books/ sft=chats.jsonl prompts=tasks.jsonl grader=number",
            "exnihilo train --resume run=runs/books",
        ),
    )
    yield Verb(
        "plan",
        "parameters, FLOPs, memory, tokens and time of a run on this machine, before it starts",
        "exnihilo plan [RECIPE] [KEY=VALUE ...] [--no-measure]",
        actions.plan,
        positionals=("RECIPE",),
        options=_WITH,
        flags={"no_measure": "count only; run nothing", **_JSON},
        settings=True,
        examples=("exnihilo plan gpt data=books/ model.depth=8 minutes=60",),
    )
    yield Verb(
        "doctor",
        "what would silently go wrong in a run: reads the data as training would, shows samples, warns",
        "exnihilo doctor RECIPE data=PATH [KEY=VALUE ...] [--json]",
        actions.doctor,
        positionals=("RECIPE",),
        required=1,
        options={
            "max_examples": Option(
                "read at most so many of each split (20000; 5000 documents)", int, least=1
            ),
            "samples": Option("examples to show as the model will see them (3)", int, least=0),
            **_WITH,
        },
        flags=_JSON,
        settings=True,
        examples=(
            "exnihilo doctor bert data=books/",
            "exnihilo doctor token_tagging init=runs/bert data=train.conll val=dev.conll",
        ),
    )
    yield Verb(
        "sample",
        "let a model write",
        'exnihilo sample RUN ["PROMPT"] [temperature=0.8] [max_new_tokens=100] [seed=1] [n=3]',
        actions.sample,
        positionals=("RUN", "PROMPT"),
        required=1,
        options={
            **_SAMPLING,
            "out": Option("the file to write: of raw sound .wav, of pixels .png, of bytes any, of ids .npy"),
        },
        flags=_JSON,
        examples=(
            'exnihilo sample runs/books "Once" temperature=0.8 max_new_tokens=100 seed=1',
            "exnihilo sample runs/waves max_new_tokens=8000 out=a.wav",
        ),
    )
    yield Verb(
        "chat",
        "talk with a model that was taught to answer",
        'exnihilo chat RUN ["MESSAGE"] [system=TEXT] [temperature=0.7] [max_new_tokens=256] [seed=1]',
        talk.chat,
        positionals=("RUN", "MESSAGE"),
        required=1,
        options={
            "system": Option("what the system message says"),
            "max_new_tokens": Option("of a reply (256)", int, least=1),
            "temperature": Option("0 is greedy (0.7)", float, least=0),
            **{name: _SAMPLING[name] for name in ("top_k", "top_p", "min_p", "seed")},
            **_DEVICE,
        },
        flags=_JSON,
        examples=("exnihilo chat runs/chat", 'exnihilo chat runs/chat "Who are you?" temperature=0'),
    )
    yield Verb(
        "predict",
        "answers of a run that was trained for a task; [MASK] in a text is filled",
        'exnihilo predict RUN "TEXT" ["SECOND TEXT"] | RUN --file IN [--out OUT.jsonl] [--resume]',
        actions.predict,
        positionals=("RUN", "TEXT"),
        required=1,
        endless=True,
        options={
            "file": Option("examples: .jsonl .csv .tsv .parquet, a text a line, or - (standard input)"),
            "out": Option("one JSON line a row, in order; without it they go to standard output"),
            "top_k": Option("at most so many alternatives of each prediction", int, least=1),
            "batch_tokens": Option("tokens of one forward: speed and memory, never a result", int, least=1),
            **_DEVICE,
        },
        flags={"resume": "go on where OUT was cut", "force": "write over OUT", **_JSON},
        settings=("data",),
        examples=(
            'exnihilo predict runs/sentiment "a fine film"',
            'exnihilo predict runs/qa "Who ran?" "Mia ran home."',
            "exnihilo predict runs/qa --file questions.jsonl --out answers.jsonl --resume",
            'exnihilo predict runs/pairs --file test.tsv \'data.fields={a = "first", b = "second"}\'',
        ),
    )
    yield Verb(
        "eval",
        "loss, a task's metrics beside the majority baseline's, graded replies, or suites, on held-out data",
        "exnihilo eval RUN [data=PATH] [grader=NAME] [--suite NAME[=PATH],...] [data.KEY=VALUE ...] [--json]",
        actions.eval,
        positionals=("RUN",),
        required=1,
        options={
            "max_tokens": Option("of a loss: read at most this many tokens", int, least=1),
            "max_examples": Option("of a task or with a grader: at most this many examples", int, least=1),
            "grader": Option("grade replies: number, exact, math, code ... or my.py:grade"),
            **_SUITES,
            "samples": Option("with a grader: replies to each prompt (1)", int, least=1),
            "temperature": Option("with a grader: 0 is greedy (0; with samples 1)", float, least=0),
            "max_new_tokens": Option("with a grader: tokens of a reply (128)", int, least=1),
            "seed": Option("with a grader: of the draws (0)", int, least=0),
            "seconds": Option("with a grader: that one reply may take (5)", float, least=0.01),
            "out": Option("with a grader: a .jsonl of the replies and their scores"),
            "dtype": Option("of the forward pass (fp32)", choices=("fp32", "bf16", "fp16")),
            **_DEVICE,
        },
        flags=_JSON,
        settings=("data",),
        examples=(
            "exnihilo eval runs/books data=more/",
            "exnihilo eval runs/tags data=test.txt data.format=conll --json",
            "exnihilo eval runs/chat data=gsm8k.jsonl grader=number samples=4",
            "exnihilo eval runs/books --suite lambada,bits_per_byte=books/,gsm8k=test.jsonl",
            "exnihilo eval runs/books --suite harness --tasks arc_easy,hellaswag max_examples=100",
        ),
    )
    yield Verb(
        "probe",
        "how much each input position bears on each output: nats from the first token to the last, pictures",
        'exnihilo probe RUN ["TEXT"] [--influence] [data=PATH] [length=64] [texts=8] [--out DIR]',
        look.probe,
        positionals=("RUN", "TEXT"),
        required=1,
        options={
            "data": Option("examples to probe with (the run's own validation split)"),
            "texts": Option("how many (8)", int, least=1),
            "length": Option("positions of each, at most the context (64 of a text, else all)", int, least=2),
            "draws": Option("swaps of each position (2)", int, least=1),
            "block": Option("neighbours that are swapped together (1)", int, least=1),
            "seed": Option("of swaps and random weights (0)", int, least=0),
            "out": Option("the folder of pictures and figures (RUN/probe)"),
            **_DEVICE,
        },
        flags={"influence": "measure influence; the default, and all there is", **_JSON},
        examples=(
            "exnihilo probe runs/books --influence",
            'exnihilo probe runs/books "The old fox went home."',
            "exnihilo probe runs/digits bell.wav block=5",
        ),
    )
    yield Verb(
        "export",
        "write a model for other projects, and prove it equal",
        "exnihilo export RUN --to hf|gguf|onnx --out DIR [--dtype q8_0]",
        actions.export,
        positionals=("RUN",),
        required=1,
        options={
            "to": Option("format (hf)", choices=("hf", "gguf", "onnx")),
            "out": Option("a folder that does not exist yet"),
            "dtype": Option(
                "hf: fp32, bf16, fp16 (as they are); gguf: f32, f16, q8_0 (f32); onnx: fp32, int8 (fp32)",
                choices=("fp32", "bf16", "fp16", "f32", "f16", "q8_0", "int8"),
            ),
        },
        flags={"force": "replace the folder", **_JSON},
        examples=(
            "exnihilo export runs/books --to hf --out books-hf",
            "exnihilo export runs/books --to gguf --dtype q8_0 --out books-gguf",
            "exnihilo export runs/sentiment --to onnx --dtype int8 --out sentiment-onnx",
        ),
    )
    yield Verb(
        "import",
        "take a Hugging Face folder of a known family as a run",
        "exnihilo import DIR --out RUN",
        actions.import_,
        positionals=("DIR",),
        required=1,
        options={"out": Option("the run folder to write")},
        flags={"force": "replace the folder", **_JSON},
    )
    yield serve.VERB
    yield Verb(
        "report",
        "a run folder as one self-contained HTML page",
        "exnihilo report RUN [--out FILE.html]",
        actions.report,
        positionals=("RUN",),
        required=1,
        options={"out": Option("default RUN/report.html")},
        flags=_JSON,
    )
    yield Verb(
        "compare",
        "figures of several runs side by side",
        "exnihilo compare RUN RUN [...] [--out FILE.png]",
        actions.compare,
        positionals=("RUN",),
        required=2,
        endless=True,
        options={"out": Option("a PNG of their curves")},
        flags=_JSON,
    )
    yield Verb("recipes", "what can be trained", "exnihilo recipes", actions.recipes, flags=_JSON)
    yield Verb(
        "tokenizer",
        "train a tokenizer, or look into one",
        'exnihilo tokenizer train data=PATH out=DIR [codec.KEY=VALUE] | tokenizer show DIR ["TEXT"]',
        actions.tokenizer,
        positionals=("train|show", "DIR", "TEXT"),
        required=1,
        options={"out": Option("the folder to write")},
        flags=_JSON,
        settings=True,
        examples=("exnihilo tokenizer train data=books/ out=tok codec.vocab_size=8192",),
    )
    yield Verb(
        "world",
        "examples of the embedded world as files: pictures, sounds, and a table with the truth",
        "exnihilo world [VIEW] --out DIR [count=200] [start=0] [kind=KIND] [size=64] [rate=16000]",
        worlds.world,
        positionals=("VIEW",),
        options={
            "out": Option("the folder to write"),
            "count": Option("documents (200)", int, least=1),
            "start": Option("the first of them (0)", int, least=0),
            "kind": Option("of a view that has kinds, e.g. picture, sound or both of scenes"),
            "size": Option("pixels of a picture's side (64)", int, least=8, most=4096),
            "rate": Option("samples of a sound a second (16000)", int, least=1000, most=192_000),
        },
        flags={"force": "write over the table", **_JSON},
        examples=(
            "exnihilo world --out scenes count=2000",
            "exnihilo world pictures --out drawings size=256 count=20",
            "exnihilo train media_qa data=scenes/scenes.jsonl data.group=group",
        ),
    )
    yield Verb(
        "lr-find",
        "sweep learning rates over a short training and suggest one",
        "exnihilo lr-find [RECIPE] data=PATH [low=1e-5] [high=1] [trials=60] [out=FILE.png]",
        actions.lr_find,
        positionals=("RECIPE",),
        options={
            "low": Option("lowest rate (1e-5)", float, least=1e-12),
            "high": Option("highest rate (1)", float, least=1e-12),
            "trials": Option("training steps (60)", int, least=5),
            "out": Option("a PNG of the sweep"),
            **_WITH,
        },
        flags=_JSON,
        settings=True,
    )


VERBS: dict[str, Verb] = {verb.name: verb for verb in _verbs()}
