"""Check what a training would read, before it: data and weights exist and fit. No weights are loaded."""

from __future__ import annotations

from pathlib import Path

from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.data.datasets import open_training_data
from cyclevar.core.errors import CheckpointError, ConfigError
from cyclevar.core.interfaces.model import PictureModel
from cyclevar.core.models.catalog import published_part
from cyclevar.core.models.model import build_any, is_generator
from cyclevar.core.weights.checkpoints import load_metadata, load_shapes
from cyclevar.core.weights.name_table import check_keys
from cyclevar.core.weights.published import find_weights, is_published
from cyclevar.core.weights.shipped import WEIGHTS, shipped_translators, shipped_weights


def check_inputs(config: TrainConfig | PretrainConfig) -> None:
    """Raise the error that the training would end with for data or weights that are missing or do not fit."""
    open_training_data(config.data)
    model = _outline(config)
    if model is not None:
        height, width = model.image_size
        if height != width or config.data.size not in (None, height):
            raise ConfigError(
                f"data.size is {config.data.size}", expected=f"{height}, the side that this model is made for"
            )


def _outline(config: TrainConfig | PretrainConfig) -> PictureModel | None:
    """Return the model that the training would start from, without its weights; None if none is named."""
    tokenizer, weights = None, config.weights
    if isinstance(config, TrainConfig):
        if weights and config.backbone_weights:
            raise ConfigError("both weights and backbone_weights are given", expected="one of the two")
        tokenizer, weights = config.tokenizer_weights, weights or config.backbone_weights
        if (tokenizer is None) != (weights is None) and (tokenizer or config.backbone_weights):
            raise ConfigError(
                "published weights are given for one part only", expected="weights of the tokenizer and of the backbone"
            )
    generator = is_generator(config.backbone)
    if tokenizer is not None:
        for file in (tokenizer, str(weights)):
            _require(find_weights(file))
    elif weights is not None and (Path(weights).exists() or not is_published(weights)):
        path = shipped_translators().get(weights, Path(weights))
        return _read_outline(path / WEIGHTS if path.is_dir() else path, config)
    elif not generator and (weights is not None or isinstance(config, TrainConfig)):
        shipped = None if weights else shipped_weights(config.backbone, config.preset)
        if shipped is not None:
            return _read_outline(shipped, config)
        for part in ("tokenizer", "backbone"):
            published_part(weights or f"{config.backbone}/{config.preset}", part)
    elif isinstance(config, PretrainConfig) and config.stage == "backbone":
        return None
    return build_any(config.backbone, config.preset, initialize=False, **config.model)


def _require(path: Path) -> None:
    if not path.exists():
        raise CheckpointError(f"{path} is not a file", expected="a weights file", hint="check the path")


def _read_outline(path: Path, config: TrainConfig | PretrainConfig) -> PictureModel:
    """Return the model of a file without its weights. Raises `CheckpointError` if names or shapes do not fit."""
    metadata, shapes = load_metadata(path), load_shapes(path)
    if "family" not in metadata or "config" not in metadata:
        raise CheckpointError(
            f"{path} does not say which family it belongs to", expected="a model file that cyclevar wrote"
        )
    family = metadata["family"]
    if family != config.backbone:
        raise ConfigError(f"{path} belongs to the backbone {family}", expected=config.backbone)
    if config.model:
        raise ConfigError(
            f"the settings under model ({', '.join(config.model)}) are given beside {path}, which brings its own",
            hint="leave out one of the two",
        )
    model = build_any(family, metadata["config"], initialize=False)
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = [
        f"{name} has {shapes[name]}, expected {own[name]}" for name in own if shapes.get(name, own[name]) != own[name]
    ]
    check_keys(str(path), [n for n in own if n not in shapes], [n for n in shapes if n not in own], wrong)
    return model
