"""Settings of the commands: what a run's ``config.yaml`` holds. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from cyclevar.core.config.base import Settings, merged
from cyclevar.core.config.inference import Parts, TranslationConfig
from cyclevar.core.config.loop import DataConfig, LoopConfig, OptimizerConfig


class WarmupConfig(Settings):
    """Latent identity warm-up: the predicted latent learns to be the source's, for both labels, without the decoder."""

    steps: NonNegativeInt = 400
    learning_rate: PositiveFloat = 1e-3


AdversarialLoss = Literal["hinge", "multilevel_sigmoid", "least_squares"]
GeneratorLoss = Literal["nonsaturating", "multilevel_sigmoid", "hinge", "least_squares"]


class DiscriminatorConfig(Settings):
    """The two domain discriminators and how they are trained."""

    name: str = "patchgan"
    settings: dict[str, Any] = Field({})
    """Of the discriminator; ``cyclevar plugins --kind discriminator`` lists what there is."""
    loss: AdversarialLoss = "hinge"
    """What the discriminator minimises (`cyclevar.core.training.losses.adversarial`)."""
    generator_loss: GeneratorLoss = "nonsaturating"
    """What the generator minimises against it."""
    r1: NonNegativeFloat = 0.0
    """Weight of the R1 penalty: the squared gradient of the score at real pictures, halved; 0 for none."""
    r1_every: PositiveInt = 16
    """Discriminator updates from one penalty to the next, which counts as many times as much."""
    alarm_accuracy: float = Field(0.95, gt=0.5, le=1)
    """Accuracy above which the discriminator overpowers the generator, if it stays there for `alarm_updates`."""
    alarm_updates: PositiveInt = 200
    """Steps of the adversarial stage."""
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=4e-4, betas=(0.5, 0.99), weight_decay=0.0, warmup=0, clip=10.0
    )
    real: Literal["roundtrip", "raw"] = "roundtrip"
    """What stands for real: round trips of the pictures, so that blur alone does not give the fakes away, or the
    pictures themselves."""
    pool: NonNegativeInt = 64
    """Past pictures of each kind that are kept."""
    drawn: NonNegativeInt = 4
    """Past pictures that join the batch of an update, of each domain, real and fake."""
    updates: PositiveInt = 1
    """Discriminator updates a step."""
    pretrain_steps: NonNegativeInt = 400
    """Most updates before the generator's adversarial stage."""
    pretrain_auc: float = Field(0.8, gt=0.5, le=1)
    """Held-out AUC at which that stage begins."""


class PerceptualLossConfig(Settings):
    """LPIPS."""

    trunk: str | None = None
    """Torchvision's file of the trunk; None: it lies in the torch hub cache."""


class LossConfig(Settings):
    """Weights of the generator's losses (Eq. 12-16).

    L_rec is L1 plus ``perceptual`` times the perceptual distance, unless ``cycle_terms`` or ``identity_terms`` say what
    it is made of.
    """

    gan: NonNegativeFloat = 1.0
    cycle: NonNegativeFloat = 0.2
    identity: NonNegativeFloat = 0.1
    perceptual: NonNegativeFloat = 1.0
    perceptual_distance: str = "auto"
    cycle_terms: dict[str, NonNegativeFloat] | None = None
    """Weights of the losses that make up the cycle loss, by name: ``cyclevar plugins --kind loss`` lists them."""
    identity_terms: dict[str, NonNegativeFloat] | None = None
    """The same for the identity loss."""
    settings: dict[str, dict[str, Any]] = Field({})
    """Of those losses, by name."""
    cycle_every: PositiveInt = 2
    """Steps between updates with the cycle loss, which costs a second pass."""
    identity_every: PositiveInt = 4
    """Steps between updates with the identity loss."""

    @model_validator(mode="after")
    def _never_idle(self) -> Self:
        if not (self.gan or (self.cycle and self.cycle_every == 1) or (self.identity and self.identity_every == 1)):
            raise ValueError("a loss in every step: gan, or cycle or identity every step")
        return self

    def terms(self, which: Literal["cycle", "identity"]) -> Mapping[str, float]:
        """Weights by the name of the loss, inside the cycle or the identity loss."""
        given = self.cycle_terms if which == "cycle" else self.identity_terms
        distance = "perceptual" if self.perceptual_distance == "auto" else self.perceptual_distance
        return {"l1": 1.0, distance: self.perceptual} if given is None else given


Order = Literal["joint", "turbo"]


class ObjectiveConfig(Settings):
    """How the generator's losses become updates."""

    order: Order = "joint"
    """``joint``: one update down the sum of the losses that are due, in two batched passes. ``turbo``: one update for
    each in turn, cycle, adversarial, identity, with passes of its own, as CycleGAN-Turbo trains (arXiv 2403.12036)."""
    chunk: NonNegativeInt = 0
    """Pictures of each domain that pass through the generator at a time, their gradients added up: less memory, the
    same update to rounding. 0: the whole batch."""


class LoraConfig(Settings):
    """Low-rank adapters on the backbone's linear layers instead of training all its weights; needs ``peft``."""

    rank: NonNegativeInt = 0
    """Of the adapters; 0 trains all weights."""
    alpha: PositiveFloat = 16.0
    """The adapters' output is multiplied by ``alpha / rank``."""
    targets: tuple[str, ...] = ("attention", "text_attention", "feed_forward")
    """Which parts of every block get adapters, by their names in `networks.transformer`: all their linear layers."""


Recipe = Literal["default", "paper"]

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "paper": {
        "loss": {
            "gan": 0.5,
            "cycle": 1.0,
            "identity": 1.0,
            "cycle_terms": {"l1": 1.0, "perceptual": 10.0},
            "identity_terms": {"l1": 1.0, "perceptual": 1.0},
            "cycle_every": 1,
            "identity_every": 1,
        },
        "discriminator": {"loss": "multilevel_sigmoid", "generator_loss": "multilevel_sigmoid"},
    },
}
"""Changes to the defaults of `TrainConfig` that go together.

``paper``: the loss weights of CycleGAN-Turbo (arXiv 2403.12036), whose training CycleVAR follows without giving its
own: lambda_gan 0.5, lambda_cycle 1, lambda_cycle_lpips 10, lambda_idt 1, lambda_idt_lpips 1 in the published training
code, all losses in every step.
"""


class TrainConfig(Settings):
    """``cyclevar train``."""

    recipe: Recipe = "default"
    """Where the settings begin; what is given besides goes first."""
    backbone: str = "var"
    preset: str = "tiny"
    model: dict[str, Any] = Field({})
    """Changes to the preset, by section: tokenizer, backbone, schedule."""
    weights: str | None = None
    """A model file to start from; None for the weights shipped with the preset."""
    tokenizer_weights: str | None = None
    """Published tokenizer weights (.pth or .safetensors)."""
    backbone_weights: str | None = None
    """Published transformer weights (.pth or .safetensors)."""
    data: DataConfig = DataConfig()
    targets: tuple[int | str, int | str] | None = None
    """What the backbone is told of the two domains: class ids or names. None: their own names, added where new."""
    translation: TranslationConfig = TranslationConfig()
    loop: LoopConfig = LoopConfig(steps=3000, validate_every=200, sample_every=200, save_every=100)
    batch_size: PositiveInt = 4
    """Pictures of each domain."""
    accumulate: PositiveInt = 1
    """Batches to an update, which is the one that as many pictures at once would give, to rounding."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-4, betas=(0.5, 0.99), warmup=50)
    warmup: WarmupConfig = WarmupConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss: LossConfig = LossConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    ema: float = Field(0.995, ge=0, lt=1)
    gradient_checkpointing: bool = False
    """Compute blocks of backbone, encoder and decoder again in the backward pass: less memory, more time, the same
    result."""
    lora: LoraConfig = LoraConfig()
    sharded: bool = False
    """Cut up what is trained among the processes that train together (FSDP2); changes nothing that is learned."""
    diagnose_every: PositiveInt = 50
    """Steps between measurements of each loss's gradient norm."""
    seed: NonNegativeInt = 0
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Of the computation; weights are float32 always. ``auto``: bf16 on a GPU that has it, else float32."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Where the figures go besides the run folder; changes nothing that is learned."""
    callbacks: Parts = Field({})
    """Callbacks of plugins, by name, with the settings of each."""

    @property
    def pictures_at_once(self) -> int:
        """Pictures of each domain that pass through the generator at a time; 0: all that there are."""
        limits = (self.objective.chunk, self.batch_size if self.accumulate > 1 else 0)
        return min((limit for limit in limits if limit), default=0)

    @model_validator(mode="before")
    @classmethod
    def _begins_with_the_recipe(cls, data: Any) -> Any:
        """Lay what is given over the recipe, and that over the defaults."""
        changes = RECIPES.get(str(data.get("recipe", ""))) if isinstance(data, Mapping) else None
        return merged(merged(cls().model_dump(mode="json"), changes), data) if changes else data
