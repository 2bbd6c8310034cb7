"""cyclevar: unpaired image translation in one pass of a pretrained next-scale autoregressive model.

The names below are imported when they are first used, so ``import cyclevar`` itself is quick and imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclevar.core.data.datasets import open_dataset as open_dataset
    from cyclevar.core.extension.hookspecs import hookimpl as hookimpl
    from cyclevar.core.models.model import Model as Model
    from cyclevar.core.models.model import build as build
    from cyclevar.core.models.model import load_model as load_model
    from cyclevar.core.pipelines.translator import Translator as Translator
    from cyclevar.core.schedule import ScaleSchedule as ScaleSchedule

    __version__: str

_NAMES = {
    "Model": "cyclevar.core.models.model",
    "ScaleSchedule": "cyclevar.core.schedule",
    "Translator": "cyclevar.core.pipelines.translator",
    "build": "cyclevar.core.models.model",
    "hookimpl": "cyclevar.core.extension.hookspecs",
    "load_model": "cyclevar.core.models.model",
    "open_dataset": "cyclevar.core.data.datasets",
}

__all__ = ["Model", "ScaleSchedule", "Translator", "__version__", "build", "hookimpl", "load_model", "open_dataset"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("cyclevar")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
