"""exnihilo: a transformer out of nothing, from random weights to a trained, resumable, sampled model.

::

    import exnihilo as xn

    result = xn.train("gpt", data="books/", minutes=10, run="runs/books")
    print(xn.sample("runs/books", "Once", max_new_tokens=100, seed=1)[0].text)

The verbs are those of the command line, with the same names and the same settings.
"""

from exnihilo import api as _api
from exnihilo import surface as _surface
from exnihilo.api import (
    VERBS,
    chat,
    compare,
    doctor,
    eval,
    export,
    import_,
    load,
    lr_find,
    plan,
    predict,
    probe,
    quickstart,
    recipes,
    report,
    sample,
    serve,
    stream,
    tokenizer,
    train,
    world,
)
from exnihilo.errors import ExNihiloError

__version__ = _api.VERSION

__all__ = [
    "ExNihiloError",
    "chat",
    "compare",
    "doctor",
    "eval",
    "export",
    "import_",
    "load",
    "lr_find",
    "plan",
    "predict",
    "probe",
    "quickstart",
    "recipes",
    "report",
    "sample",
    "serve",
    "stream",
    "tokenizer",
    "train",
    "world",
]

_surface.install(__name__, VERBS)
