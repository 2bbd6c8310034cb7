"""What ships with the package, and where a translator lies that a user names.

::

    translators/NAME/                      finished translators, in the form that Translator.save writes
    plugins/FAMILY/weights/PRESET.safetensors    weights that a training starts from

Finding imports no torch, so that a mistyped name is answered at once.
"""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

from cyclevar.core.errors import CheckpointError, UnknownNameError
from cyclevar.core.extension.manager import get_manager

WEIGHTS, SETTINGS = "model.safetensors", "translator.json"
"""The two files of a translator."""

BEST = "best"
"""Where a run keeps the translator of its best step, beside that of its last."""

DEFAULT = "noto-fluent"
"""The translator that is meant where none is named."""

TRANSLATORS = Path(__file__).resolve().parents[2] / "translators"


def shipped_translators() -> dict[str, Path]:
    """Name -> folder of every translator that ships, sorted by name."""
    return {file.parent.name: file.parent for file in sorted(TRANSLATORS.glob(f"*/{SETTINGS}"))}


def find_checkpoint(name_or_path: str | Path | None, checkpoint: str) -> Path:
    """`find_translator`, or with ``checkpoint`` best instead of last the translator of that run's best step.

    Raises:
        UnknownNameError: neither best nor last.
        CheckpointError: what was found has no best step: a shipped translator, or a run that ended in the warm-up.
    """
    if checkpoint not in (BEST, "last"):
        raise UnknownNameError("checkpoint", checkpoint, (BEST, "last"))
    folder = find_translator(name_or_path)
    if checkpoint == "last":
        return folder
    if not (folder / BEST).is_dir():
        raise CheckpointError(
            f"{folder} has no translator of a best step",
            expected="a finished run that was validated after its warm-up",
            hint="use --checkpoint last",
        )
    return _checked(folder / BEST)


def find_translator(name_or_path: str | Path | None = None) -> Path:
    """The folder that ``Translator.load`` opens: of a shipped name (None: `DEFAULT`), a saved translator or a run.

    A shipped name goes before a folder of that name in the working directory, which is meant by ``./NAME``.

    Raises:
        UnknownNameError: neither a shipped name nor a folder.
        CheckpointError: a folder that holds no translator, such as a run that has not finished.
    """
    wanted, shipped = str(name_or_path or DEFAULT), shipped_translators()
    if wanted in shipped:
        return shipped[wanted]
    folder = Path(wanted)
    if folder.is_dir():
        return _checked(folder)
    hint = "or give the folder of a saved translator or of a finished run"
    if folder.exists():
        raise CheckpointError(f"{folder} is a file", expected="the folder of a translator", hint=hint)
    raise UnknownNameError("translator or folder", wanted, shipped, hint=hint)


def _checked(folder: Path) -> Path:
    """``folder``, if it holds a translator."""
    missing = [name for name in (SETTINGS, WEIGHTS) if not (folder / name).is_file()]
    if not missing:
        return folder
    expected = f"a folder with {SETTINGS} and {WEIGHTS}"
    if SETTINGS in missing and (folder / "checkpoints").is_dir():
        if WEIGHTS in missing:
            raise CheckpointError(
                f"the run in {folder} has not finished: it holds checkpoints, but no translator yet",
                expected=expected,
                hint="wait for its end, or go on with it by --resume auto",
            )
        raise CheckpointError(
            f"the run in {folder} was a pre-training, and its model cannot translate yet",
            expected=expected,
            hint=f"train a translator from it: cyclevar train --weights {folder / WEIGHTS}",
        )
    raise CheckpointError(
        f"{folder} is no translator, since it lacks {' and '.join(missing)}",
        expected=expected,
        hint="give a saved translator, a finished run of cyclevar train, or the name of one that ships: "
        + (", ".join(shipped_translators()) or "none does"),
    )


def shipped_weights(family: str, preset: str) -> Path | None:
    """The weights file that a family's package brings for a preset, if it does; the family is not imported."""
    factory = get_manager().registry.get("backbone", family).factory
    module = factory.partition(":")[0] if isinstance(factory, str) else factory.__module__
    with contextlib.suppress(ModuleNotFoundError):  # which building the model reports
        found = importlib.util.find_spec(module)
        if found is not None and found.origin is not None:
            path = Path(found.origin).parent / "weights" / f"{preset}.safetensors"
            return path if path.is_file() else None
    return None
