"""The settings of pretraining a tokenizer and a backbone."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from cyclevar.core.config.base import Settings
from cyclevar.core.config.loop import DataConfig, LoopConfig, OptimizerConfig


class TokenizerPretraining(Settings):
    """Stage ``tokenizer``: autoencoder, code book by k-means, quantized training, adversarial finish."""

    loop: LoopConfig = LoopConfig(steps=5200)
    batch_size: int = Field(8, ge=2, multiple_of=2)
    """Pictures of both domains together, half of each."""
    accumulate: PositiveInt = 1
    """Batches to an update."""
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-3, betas=(0.9, 0.99), weight_decay=1e-4, warmup=100, decay="cosine"
    )
    autoencoder_from: str | None = None
    """Another tokenizer to take encoder and decoder from, as far as names and shapes agree: a model file, a run folder,
    or a family whose package brings weights for this preset. ``autoencoder_steps`` may then be few, or 0."""
    autoencoder_steps: NonNegativeInt = 1000
    """Updates without quantization, with noise on the latent instead. With 0 and trained ``weights`` their code book
    stays and is trained further; otherwise one is made after these updates."""
    latent_noise: NonNegativeFloat = 0.25
    """Noise in the autoencoder stage, relative to the latent's standard deviation."""
    kmeans_pictures: PositiveInt = 256
    kmeans_iterations: PositiveInt = 12
    refill_every: PositiveInt = 100
    """Updates between refills of codes that nothing uses."""
    commitment: NonNegativeFloat = 0.25
    squared_error: NonNegativeFloat = 4.0
    """Weight of the squared error beside the absolute one."""
    perceptual: NonNegativeFloat = 0.5
    perceptual_from: NonNegativeInt = 3200
    """First update with the perceptual loss; the finish always has it."""
    finish_from: NonNegativeInt = 4000
    """First update of the finish: from the averaged weights on, only the decoder learns, so that the codes stay as they
    are, and a discriminator judges it. 0, with ``autoencoder_steps`` 0 and trained ``weights``, for a finish alone."""
    finish_perceptual: NonNegativeFloat = 2.0
    """Weight of the perceptual loss in the finish, where it looks at `finish_perceptual_size` pixels."""
    finish_perceptual_size: int = Field(128, ge=32)
    adversarial: NonNegativeFloat = 0.3
    """Weight of the adversarial gradient relative to the reconstruction's, at the picture."""
    adversarial_after: NonNegativeInt = 100
    """Updates of the finish in which the discriminator learns alone."""
    discriminator: str = "features"
    discriminator_learning_rate: PositiveFloat = 1e-3
    ema: float = Field(0.998, ge=0, lt=1)

    @model_validator(mode="after")
    def _quantizes(self) -> Self:
        finish_alone = self.autoencoder_steps == self.finish_from == 0
        if self.autoencoder_steps >= min(self.loop.steps, self.finish_from) and not finish_alone:
            raise ValueError(
                f"autoencoder_steps ({self.autoencoder_steps}) below loop.steps ({self.loop.steps}) and finish_from "
                f"({self.finish_from})"
            )
        return self


class BackbonePretraining(Settings):
    """Stage ``backbone``: next-scale prediction with class labels (VAR Sec. 4)."""

    loop: LoopConfig = LoopConfig(steps=3000)
    batch_size: int = Field(16, ge=2, multiple_of=2)
    """Pictures of both domains together, half of each."""
    accumulate: PositiveInt = 1
    """Batches to an update."""
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup=100, decay="cosine", clip=2.0
    )
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of labels replaced by the null condition, which guidance needs."""
    ema: float = Field(0.998, ge=0, lt=1)


class PretrainConfig(Settings):
    """``cyclevar pretrain``."""

    backbone: str = "var"
    preset: str = "tiny"
    model: dict[str, Any] = Field({})
    """Changes to the preset, by section: tokenizer, backbone, schedule."""
    stage: Literal["tokenizer", "backbone"] = "tokenizer"
    weights: str | None = None
    """Weights to start from: a model file of cyclevar. Stage backbone needs one with a trained tokenizer."""
    data: DataConfig = DataConfig(skin_tones=True)
    tokenizer: TokenizerPretraining = TokenizerPretraining()
    transformer: BackbonePretraining = BackbonePretraining()
    seed: NonNegativeInt = 0
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Of the computation; weights are float32 always. ``auto``: bf16 on a GPU that has it, else float32."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Where the figures go besides the run folder; changes nothing that is learned."""

    @property
    def section(self) -> str:
        """The name of the stage's own settings."""
        return "tokenizer" if self.stage == "tokenizer" else "transformer"

    @model_validator(mode="after")
    def _starts_somewhere(self) -> Self:
        if self.stage == "tokenizer" and self.weights is None and self.tokenizer.finish_from == 0:
            raise ValueError("weights with a trained tokenizer, since tokenizer.finish_from is 0")
        if self.stage == "tokenizer" and self.weights is not None and self.tokenizer.autoencoder_from is not None:
            raise ValueError("either weights or tokenizer.autoencoder_from: each brings an encoder and a decoder")
        return self
