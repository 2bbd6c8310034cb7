"""The passes that are timed, built from a `BenchConfig`, and the ceilings that they are held against."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cyclevar.core.attention.kernels import choose_backend
from cyclevar.core.bench.config import BenchConfig, training_settings
from cyclevar.core.bench.stages import StageClock, watched
from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.config.loop import DataConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.inference.optimize import captured, compile_parts, for_inference
from cyclevar.core.interfaces.backbone import Condition
from cyclevar.core.models.catalog import open_model
from cyclevar.core.models.model import Model, build
from cyclevar.core.next_scale.generation import generate
from cyclevar.core.runtime.device import choose_device

REST = {
    "parallel": "SRQ and compose",
    "serial": "SRQ and compose",
    "generate": "sample and compose",
    "train": "losses, gradients, updates",
}
"""What a pass does outside encoder, quantizer, backbone and decoder."""

CAPTURED = "captured pass"
"""All of a pass that is one CUDA graph."""

ORDER = ("encode", "tokenize", "backbone", *dict.fromkeys(REST.values()), "decode", CAPTURED)
"""Of the stages in a table."""

CONVOLVED = ("encode", "decode")
"""Stages that are mostly convolutions; the others are mostly matrix products."""


class Work:
    """One way to run a model: plain, as it is built, or rearranged for inference. A call makes a pass.

    Weights and pictures follow from nothing but the settings, so that two ways can be compared.
    """

    def __init__(self, config: BenchConfig, *, plain: bool) -> None:
        """Raises `ConfigError` for a size, device or dtype that cannot be had."""
        self.config, self.device = config, choose_device(config.device)
        self.now = time.perf_counter
        if config.cpu_time and self.device.type == "cpu":
            torch.set_num_threads(1)
            self.now = time.process_time
        self.dtype = _dtype(config.dtype, self.device)
        torch.manual_seed(0)
        model = sized(_open(config), config.size).to(self.device)
        self.weight_bytes = {"tokenizer": _bytes(model.tokenizer), "backbone": _bytes(model.backbone)}
        choose_backend(self.device, config.attention)
        model.backbone.attention_backend = config.attention
        self.plain = plain
        self.train: Callable[[int], object] | None = None
        if config.mode == "train":
            self.train, self.model = _training(model, config), model
        elif plain:
            self.model = model.eval()
            if self.dtype != torch.float32:
                self.model = self.model.to(self.dtype)
        else:
            self.model = for_inference(model, int8=config.int8, dtype=self.dtype, pack=not config.compile)
        if config.compile and not plain:
            compile_parts(self.model)
        side = self.model.image_size
        self.images = torch.rand(config.batch, 3, *side, device=self.device).to(self.dtype) * 2 - 1
        self.targets = [model.backbone.any_target()] * config.batch
        self.passes = 0
        self.captured: Callable[[Tensor], Tensor] | None = None
        if config.capture and not plain and config.mode in ("parallel", "serial") and self.device.type == "cuda":
            unseen = StageClock(torch.device("cpu"))  # no event may be recorded meanwhile
            self.captured = captured(lambda images: self._made(images, unseen), self.images)

    def __call__(self, clock: StageClock) -> Tensor | None:
        """One pass; the picture that it made, float32 ``[B,3,H,W]``, unless it trains."""
        self.passes += 1
        with watched(self.model, clock):
            if self.train is not None:
                with clock.stage(REST["train"]):
                    self.train(self.passes - 1)
                return None
            if self.captured is not None:
                with clock.stage(CAPTURED):
                    return self.captured(self.images)
            return self._made(self.images, clock)

    def _made(self, images: Tensor, clock: StageClock) -> Tensor:
        half = self.dtype != torch.float32
        autocast = torch.autocast(self.device.type, self.dtype) if half else contextlib.nullcontext()
        with torch.inference_mode(), autocast:
            condition: Condition = self.model.condition(self.targets)
            if self.config.mode == "generate":
                with clock.stage(REST["generate"]):
                    return generate(self.model, condition).image.float()
            with clock.stage("tokenize"):
                context = self.model.encode(images)
            with clock.stage(REST[self.config.mode]):
                settings = TranslationConfig(mode=self.config.mode)
                return self.model.translate(context, condition, settings).image.float()

    def flops(self) -> dict[str, float]:
        """Floating-point operations of a pass by stage, counted while one runs."""
        backend = self.model.backbone.attention_backend
        self.model.backbone.attention_backend = "sdpa"  # kernels from elsewhere are not counted
        try:
            with FlopCounterMode(display=False) as counter:
                clock = StageClock(torch.device("cpu"), counter)
                self(clock)
        finally:
            self.model.backbone.attention_backend = backend
        return clock.flops()

    def timed(self) -> dict[str, float]:
        """Seconds of a pass by stage."""
        clock = StageClock(self.device, now=self.now)
        self(clock)
        return clock.seconds()


def _open(config: BenchConfig) -> Model:
    if config.weights is not None:
        return open_model(config.backbone, config.preset, weights=config.weights)
    changes: dict[str, Any] = {} if config.schedule is None else {"schedule": config.schedule}
    return build(config.backbone, config.preset, **changes)


def sized(model: Model, size: int | None) -> Model:
    """The model for pictures of ``size`` pixels a side. Raises `ConfigError` where it cannot make them."""
    if size is None or model.image_size == (size, size):
        return model
    stride = model.tokenizer.stride
    schedule = model.config.nearest_schedule((size // stride, size // stride))
    made = tuple(side * stride for side in schedule.full)
    if made != (size, size):
        raise ConfigError(
            f"{model.family} makes no pictures of {size}x{size} pixels",
            expected=f"--size {max(made)}, the nearest that it can make",
        )
    return model.at(schedule)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    has_half = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "bf16" and not has_half:
        raise ConfigError("this GPU does not compute in bf16", hint="use --dtype float32")
    half = name == "bf16" or (name == "auto" and device.type == "cuda" and has_half)
    return torch.bfloat16 if half else torch.float32


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def _training(model: Model, config: BenchConfig) -> Callable[[int], object]:
    """Updates of the adversarial stage, numbered from 0, on the built-in pictures at the model's size."""
    from cyclevar.core.data.batches import UnpairedBatches
    from cyclevar.core.data.datasets import open_dataset
    from cyclevar.core.networks.feature_net import load_feature_net
    from cyclevar.core.training.accelerator import make_accelerator
    from cyclevar.core.training.losses.reconstruction import build_reconstructions
    from cyclevar.core.training.tasks.translator import TranslatorTask

    settings, target = training_settings(config), model.backbone.any_target()
    dataset = open_dataset(DataConfig().source)
    task = TranslatorTask(
        model,
        settings,
        UnpairedBatches(dataset.train, config.batch, model.image_size[0]),
        (torch.zeros(0), torch.zeros(0)),
        dataset.train,
        (target, target),
        build_reconstructions(settings.loss),
        load_feature_net(input_size=112),
        make_accelerator(config.device, config.dtype),
    )
    return task.update


def ceilings(
    device: torch.device, dtype: torch.dtype, now: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Floating-point operations a second of a large matrix product and of a large 3x3 convolution, measured now."""
    side, channels, map_side = (8192, 512, 256) if device.type == "cuda" else (2048, 320, 96)
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    convolution = nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype)
    convolution = convolution.to(memory_format=torch.channels_last)
    maps = torch.randn(1, channels, map_side, map_side, device=device, dtype=dtype)
    maps = maps.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return {
            "matrix product": 2 * side**3 / _seconds(lambda: matrix @ matrix, device, now),
            "convolution": 18 * channels**2 * map_side**2 / _seconds(lambda: convolution(maps), device, now),
        }


def _seconds(call: Callable[[], object], device: torch.device, now: Callable[[], float], repeats: int = 3) -> float:
    best = float("inf")
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begun = now()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, now() - begun)
    return best
