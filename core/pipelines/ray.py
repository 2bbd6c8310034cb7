"""Translating with Ray Data: pictures from and to whatever it reads and writes, on as many machines as it has.

::

    pictures = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
    translate_dataset(pictures, "runs/my-run", "zebra", workers=8).write_parquet("s3://bucket/zebras")

`PictureTranslator` is the part that works without Ray: a function from batch to batch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclevar.core.data.fitting import Fitted, fit, unfit
from cyclevar.core.data.images import encode_picture, read_picture, written_suffix
from cyclevar.core.errors import ConfigError, PictureError
from cyclevar.core.pipelines.translate_files import check_request, translate_fitted
from cyclevar.core.pipelines.translator import Target, Translator
from cyclevar.core.runtime.device import choose_device
from cyclevar.core.weights.shipped import DEFAULT, find_checkpoint

if TYPE_CHECKING:
    from ray.data import Dataset


class PictureTranslator:
    """Translates the column ``bytes`` of a batch, whole picture files, and keeps all other columns.

    A picture that cannot be read gets empty ``bytes`` and the reason in the column ``problem``, which is empty for the
    others.
    """

    def __init__(
        self,
        model: str = DEFAULT,
        target: Target | None = None,
        *,
        checkpoint: str = "last",
        kind: str = "png",
        size: int | None = None,
        device: str = "auto",
        batch_size: int = 8,
        **settings: Any,
    ) -> None:
        """``model``, ``checkpoint`` and ``target`` as `cyclevar translate` takes them; ``kind``: the format of results.

        Raises `UnknownNameError`, `ConfigError` or `CheckpointError` for what cannot be done.
        """
        translator = Translator.load(find_checkpoint(model, checkpoint), device=choose_device(device), **settings)
        self.translator = translator.for_inference()
        self.target = self.translator.default_target if target is None else target
        self.name, self.size, self.batch_size = PurePosixPath(f"picture{written_suffix(kind)}"), size, batch_size
        check_request(self.translator, self.target, batch_size, size)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        names = batch.get("path", [f"picture {number}" for number in range(len(batch["bytes"]))])
        made, problems = [b""] * len(names), [""] * len(names)
        fitted: dict[int, Fitted] = {}
        for index, (name, content) in enumerate(zip(names, batch["bytes"], strict=True)):
            try:
                fitted[index] = fit(read_picture(content, name=str(name)), self.translator.model.image_size)
            except PictureError as error:
                problems[index] = error.problem
        places = list(fitted)
        for begin in range(0, len(places), self.batch_size):
            part = places[begin : begin + self.batch_size]
            images = translate_fitted(self.translator, [fitted[index] for index in part], self.target)
            for index, image in zip(part, images, strict=True):
                try:
                    made[index] = encode_picture(unfit(image, fitted[index], self.size), self.name)
                except PictureError as error:
                    problems[index] = error.problem
        return {**batch, "bytes": np.array(made, object), "problem": np.array(problems, object)}


def translate_dataset(
    pictures: Dataset,
    model: str = DEFAULT,
    target: Target | None = None,
    *,
    workers: int = 1,
    gpus: float = 0,
    batch_size: int = 8,
    **options: Any,
) -> Dataset:
    """A data set of picture files (column ``bytes``), translated by ``workers`` processes, each on ``gpus`` GPUs.

    Each worker takes a CPU core of the cluster, which needs at least one more to read and write.

    ``options`` are those of `PictureTranslator`. As all of Ray Data it is lazy: nothing happens until the result is
    asked for. Raises `ConfigError` where Ray is missing.
    """
    require_ray()
    return pictures.map_batches(
        PictureTranslator,
        fn_constructor_args=(model, target),
        fn_constructor_kwargs={"batch_size": batch_size, "device": "cuda" if gpus else "cpu", **options},
        batch_size=batch_size,
        batch_format="numpy",
        concurrency=workers,
        num_gpus=gpus,
    )


def require_ray() -> Any:
    """The package. Raises `ConfigError` where it is not installed."""
    try:
        return importlib.import_module("ray.data")
    except ImportError as error:
        raise ConfigError(
            "Ray is not installed", expected="ray with its data library", hint="pip install 'cyclevar[ray]'"
        ) from error
