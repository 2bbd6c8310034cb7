"""What an evaluation has seen, kept on the disk, so that an interrupted one goes on where it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from cyclevar.core.errors import CheckpointError
from cyclevar.core.weights.checkpoints import load_tensors, save_tensors
from cyclevar.core.weights.hub import own_cache

_log = logging.getLogger(__name__)


class FeatureCache:
    """Tensors by key, a safetensors file each, in ``folder`` (``$CYCLEVAR_CACHE/features`` where None).

    The folder may be deleted at any time. One that cannot be written costs a warning and nothing else.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or own_cache() / "features"
        self._writes = True

    def __call__(self, key: str, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What is kept under ``key``, or else what ``compute`` gives, which is kept from now on."""
        path = self.folder / f"{key[:32]}.safetensors"
        if path.is_file():
            try:
                return load_tensors(path)[0]
            except CheckpointError as error:
                _log.warning("%s; it is computed again", error.problem)
        found = dict(compute())
        if self._writes:
            try:
                save_tensors(path, found)
            except CheckpointError as error:
                _log.warning("%s; nothing is kept of this evaluation", error.problem)
                self._writes = False
        return found
