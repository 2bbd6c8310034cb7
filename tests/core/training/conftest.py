"""A small data set, a model that trains in milliseconds, and settings that go through every stage in a few steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

import cyclevar
from cyclevar.core.config.base import validate
from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import LoraConfig, TrainConfig
from cyclevar.core.data.batches import UnpairedBatches, stack
from cyclevar.core.data.datasets import open_dataset
from cyclevar.core.evaluation.perceptual import PerceptualDistance
from cyclevar.core.models.model import Model
from cyclevar.core.networks.feature_net import FeatureNet, load_feature_net
from cyclevar.core.training import launch as start
from cyclevar.core.training.accelerator import make_accelerator
from cyclevar.core.training.losses import reconstruction
from cyclevar.core.training.tasks import translator as trainer
from cyclevar.core.training.tasks.translator import TranslatorTask
from cyclevar.plugins.cyclegan.config import CycleganConfig

SETTINGS: dict[str, Any] = {
    "tokenizer": {
        "codebook_size": 16,
        "channels": 8,
        "width": 32,
        "multipliers": [1],
        "residual_blocks": 1,
        "patch": 4,
        "phi_count": 2,
    },
    "backbone": {"depth": 2, "width": 32, "heads": 2, "classes": 2, "class_names": ["discs", "squares"]},
    "schedule": "1-2-4",
}
"""For pictures of 16 px."""

FLEXVAR: dict[str, Any] = {
    "tokenizer": {key: value for key, value in SETTINGS["tokenizer"].items() if key != "phi_count"}
    | {"z_channels": 8, "kernel": 3, "patch": 2},
    "backbone": SETTINGS["backbone"] | {"position_grid": 4},
    "schedule": "1-2-3-4-6-8",
}
"""A FlexVAR for the same pictures, with scales enough to draw from."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from two threads, which wait for each other where the processor is busy.

    Sums come out differently with another number of threads, so it must not change between trainings to compare.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Record:
    """A display that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.values: list[dict[str, Any]] = []

    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        self.values.append(dict(values))

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def display() -> Record:
    return Record()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 discs and 44 squares, 16 px, in the folders discs and squares."""
    folder = tmp_path_factory.mktemp("pictures")
    for kind in ("discs", "squares"):
        (folder / kind).mkdir()
        for i in range(44):
            picture = Image.new("RGB", (16, 16), "white")
            draw = ImageDraw.Draw(picture)
            shape = draw.ellipse if kind == "discs" else draw.rectangle
            left, top, side = i % 5, i % 7, 5 + i % 4
            shape((left, top, left + side, top + side), fill=(37 * i % 256, 91 * i % 256, 53 * i % 256))
            picture.save(folder / kind / f"{i:02d}.png")
    return folder


@pytest.fixture
def model() -> Model:
    """Fresh weights, made strong enough that the label matters."""
    return make_model()


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file to start from."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    make_model().save(path)
    return path


def make_model(family: str = "var", settings: Mapping[str, Any] = SETTINGS) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = cyclevar.build(family, settings)
    with torch.no_grad():
        for name in ("class_embedding", "head.weight", "head_modulation.weight"):
            model.backbone.get_parameter(name).mul_(20)
    return model


@pytest.fixture(scope="session")
def train_config(pictures: Path, weights: Path) -> TrainConfig:
    """Warm-up in steps 0-4, discriminators alone in 5-11, then the adversarial stage."""
    return validate(
        TrainConfig,
        {
            "weights": str(weights),
            "data": {"source": str(pictures)},
            "loop": {"steps": 20, "log_every": 1, "validate_every": 100, "sample_every": 100, "save_every": 5},
            "batch_size": 2,
            "optimizer": {"learning_rate": 1e-3, "warmup": 3},
            "warmup": {"steps": 5},
            "discriminator": {"settings": {"width": 8}, "pretrain_steps": 7, "pool": 6, "drawn": 2, "updates": 2},
            "loss": {"identity_every": 3, "cycle_every": 2},
            "diagnose_every": 4,
            "ema": 0.9,
        },
    )


@pytest.fixture(scope="session")
def paper_config(train_config: TrainConfig, small_clip: dict[str, str]) -> TrainConfig:
    """The paper's losses and discriminator, with a colour loss and the R1 penalty."""
    loss = {"cycle_terms": {"l1": 1.0, "perceptual": 10.0, "colour": 1.0}}
    settings = {**small_clip, "width": 8}
    judge = {"name": "clip", "settings": settings, "r1": 0.1, "r1_every": 2, "loss": "multilevel_sigmoid"}
    judge["generator_loss"] = "multilevel_sigmoid"
    given = train_config.model_dump() | {"loss": TrainConfig(recipe="paper").loss.model_dump()}
    return validate(TrainConfig, merge(merge(given, {"loss": loss}), {"discriminator": judge, "recipe": "paper"}))


@pytest.fixture(scope="session")
def cyclegan_config(train_config: TrainConfig) -> TrainConfig:
    """CycleGAN's recipe in small, adversarial from the first step."""
    given = {
        "backbone": "cyclegan",
        "model": {"size": 16, "width": 8, "residual_blocks": 1},
        "data": train_config.data.model_dump(),
        "loop": train_config.loop.model_dump(),
        "discriminator": {"settings": {"width": 8, "levels": 1}, "pool": 6},
    }
    return validate(TrainConfig, merge(CycleganConfig.training(), given))


@pytest.fixture(scope="session")
def lora_config(train_config: TrainConfig) -> TrainConfig:
    """The same with adapters in the place of the backbone's weights."""
    pytest.importorskip("peft", reason="no peft: pip install 'cyclevar[lora]'")
    return train_config.model_copy(update={"lora": LoraConfig(rank=2)})


@pytest.fixture(scope="session")
def tokenizer_config(pictures: Path) -> PretrainConfig:
    """Autoencoder in steps 0-4, codes in 5-12 (from 8 on with the perceptual loss), then the finish of the decoder."""
    return validate(
        PretrainConfig,
        {
            "model": SETTINGS,
            "data": {"source": str(pictures)},
            "tokenizer": {
                "loop": {"steps": 20, "log_every": 1, "validate_every": 100, "sample_every": 100, "save_every": 5},
                "batch_size": 4,
                "optimizer": {"learning_rate": 1e-3, "warmup": 3, "decay": "cosine"},
                "autoencoder_steps": 5,
                "kmeans_pictures": 8,
                "kmeans_iterations": 2,
                "refill_every": 3,
                "perceptual_from": 8,
                "finish_from": 13,
                "finish_perceptual_size": 32,
                "adversarial_after": 2,
                "discriminator": "patchgan",
                "ema": 0.9,
            },
        },
    )


@pytest.fixture(scope="session")
def backbone_config(pictures: Path, weights: Path) -> PretrainConfig:
    return validate(
        PretrainConfig,
        {
            "stage": "backbone",
            "weights": str(weights),
            "data": {"source": str(pictures)},
            "transformer": {
                "loop": {"steps": 20, "log_every": 1, "validate_every": 100, "sample_every": 100, "save_every": 5},
                "batch_size": 4,
                "optimizer": {"learning_rate": 1e-3, "warmup": 3, "decay": "cosine"},
                "condition_dropout": 0.3,
                "ema": 0.9,
            },
        },
    )


@pytest.fixture(scope="session")
def flexvar_tokenizer_config(tokenizer_config: PretrainConfig) -> PretrainConfig:
    """Random sizes in every update with codes."""
    return tokenizer_config.model_copy(update={"backbone": "flexvar", "model": FLEXVAR})


@pytest.fixture(scope="session")
def flexvar_backbone_config(
    backbone_config: PretrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> PretrainConfig:
    """A random schedule in every update."""
    path = tmp_path_factory.mktemp("flexvar") / "model.safetensors"
    make_model("flexvar", FLEXVAR).save(path)
    return backbone_config.model_copy(update={"backbone": "flexvar", "weights": str(path)})


class Differences(PerceptualDistance):
    """The mean squared difference of pixels: a perceptual distance that costs nothing."""

    name, weights_sha256 = "differences", "0" * 64

    def maps(self, images: Tensor) -> Sequence[Tensor]:
        return [images]

    def combine(self, squared: Sequence[Tensor]) -> Tensor:
        return squared[0].mean((1, 2, 3))


@pytest.fixture
def perceptual() -> Differences:
    return Differences()


@pytest.fixture
def light() -> Iterator[None]:
    """Trainings that start quickly: cheap distances, few pictures to compare with, one small feature net for all."""
    with pytest.MonkeyPatch.context() as patch:
        lighten(patch)
        yield


@pytest.fixture(scope="module")
def light_module() -> Iterator[None]:
    """The same for a whole module."""
    with pytest.MonkeyPatch.context() as patch:
        lighten(patch)
        yield


def lighten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer, "REFERENCE", 8)
    patch.setattr(start, "perceptual_distance", lambda *settings, **more: Differences())
    patch.setattr(reconstruction, "perceptual_distance", lambda *settings, **more: Differences())
    patch.setattr(start, "load_feature_net", lambda **settings: small_net())


@functools.cache
def small_net() -> FeatureNet:
    return load_feature_net(input_size=32)


@pytest.fixture
def accelerator() -> Any:
    return make_accelerator("cpu", "float32")


@pytest.fixture
def make_task(model: Model, train_config: TrainConfig, pictures: Path) -> Callable[..., TranslatorTask]:
    """A translator's training without a run folder; keywords change settings."""

    def make(note: Callable[[str], None] = print, **changes: Any) -> TranslatorTask:
        config = validate(TrainConfig, merge(train_config.model_dump(), changes))
        torch.manual_seed(0)
        dataset = open_dataset(pictures)
        assert dataset.validation is not None
        a, b = (stack(part, 16) for part in dataset.validation)
        batches = UnpairedBatches(dataset.train, config.batch_size, 16)
        targets = ("discs", "squares")
        accelerator = make_accelerator("cpu", "float32")
        pieces = reconstruction.build_reconstructions(config.loss)
        return TranslatorTask(
            model, config, batches, (a, b), dataset.train, targets, pieces, small_net(), accelerator, note=note
        )

    return make


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` put in, section by section."""
    return dict(base) | {
        key: merge(base[key], value) if _sections(base.get(key), value) and key != "settings" else value
        for key, value in changes.items()
    }


def _sections(base: Any, value: Any) -> bool:
    return isinstance(base, Mapping) and isinstance(value, Mapping)
