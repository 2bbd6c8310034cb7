"""Settings of the commands: what a run's ``config.yaml`` holds. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from cyclevar.core.hub import PublishedFile
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.core.settings import Settings, merged

Share = Annotated[float, Field(ge=0, le=1)]


Size = tuple[int, int]
"""Height and width."""


Parts = dict[str, dict[str, Any]]
"""Registered parts by name, with the settings of each."""


class ExtensionsConfig(Settings):
    """Parts of plugins that act while a model runs. ``cyclevar plugins`` lists what there is."""

    visibility: Parts = Field({})
    """Which tokens see which; one at most."""
    cache_policy: Parts = Field({})
    """Which tokens the key-value cache keeps; one at most."""
    decoder: Parts = Field({})
    """What makes pictures of latents; one at most."""
    callbacks: Parts = Field({})


class SamplingConfig(Settings):
    """How to sample: one number each, or one a scale.

    A family with choices of its own derives from this; its `Backbone.guided` and `Backbone.guide` are given them.
    """

    guidance: float | tuple[float, ...] = 0.0
    """Strength of classifier-free guidance, in the units of the family."""
    temperature: PositiveFloat | tuple[PositiveFloat, ...] = 1.0
    top_k: NonNegativeInt | tuple[NonNegativeInt, ...] = 0
    """Draw from the k most probable codes; 0 for all."""
    top_p: Share | tuple[Share, ...] = 0.0
    """Draw from the most probable codes that together have this probability; 0 for all."""
    extensions: ExtensionsConfig = ExtensionsConfig()

    @property
    def no_guidance(self) -> float:
        """The strength that is no guidance."""
        return 0.0


class Measures(NamedTuple):
    """Parameters of tokenizer and backbone, and the side in pixels of a cell of the finest map."""

    tokenizer: int
    backbone: int
    stride: int


class ModelConfig(Settings):
    """Base of the settings of whatever translates pictures."""

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """The sizes that have a name."""
        return {}

    @classmethod
    def training(cls) -> Mapping[str, Any]:
        """What training this family changes of the defaults of `TrainConfig`."""
        return {}


class DirectConfig(ModelConfig):
    """Base of the settings of a generator, which translates pictures without tokens."""

    size: PositiveInt
    """Side of its pictures in pixels."""
    domains: tuple[str, ...] = ()
    """What the two domains are called, once they are known."""


class FamilyConfig(ModelConfig):
    """Base of a family's settings, which have the sections ``tokenizer`` and ``backbone`` too."""

    schedule: str
    sampling: SamplingConfig = SamplingConfig()
    """How `cyclevar.core.generation` samples where nothing else is said."""

    @classmethod
    def measures(cls) -> Mapping[str, Measures]:
        """How large the presets are, written down so that listing them builds nothing; what lacks is measured."""
        return {}

    @classmethod
    def published(cls) -> Sequence[PublishedFile]:
        """The files with trained weights that were published for the presets."""
        return ()

    @classmethod
    def schedules(cls) -> Mapping[str, str]:
        """Schedules that have a name."""
        return {}

    @classmethod
    def parse_schedule(cls, text: str) -> ScaleSchedule:
        """A schedule by its name or in the notation of `ScaleSchedule.parse`."""
        return ScaleSchedule.parse(cls.schedules().get(text, text))

    def nearest_schedule(self, size: Size) -> ScaleSchedule:
        """The schedule for a latent of ``size`` cells, or for the nearest size that the model can make.

        Here the only one; a family that makes pictures of several sizes overrides this.
        """
        return self.parse_schedule(self.schedule)

    def conditions(self) -> str:
        """What the backbone can be told, in a few words."""
        return ""


class ClassConditionalConfig(Settings):
    """The transformer that VAR and the families after it share. Defaults: the published size of 16 blocks."""

    depth: PositiveInt = 16
    width: PositiveInt = 1024
    heads: PositiveInt = 16
    mlp_ratio: PositiveFloat = 4.0
    classes: PositiveInt = 1000
    shared_adaln: bool = False
    """One map from class to modulation for all blocks, instead of one each."""
    qk_norm: bool = True
    norm_eps: PositiveFloat = 1e-6
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Rate of dropped branches in the last block while pre-training, rising linearly from 0 in the first."""
    class_names: tuple[str, ...] = ()
    """Names of the first classes, where they have names."""
    domains: tuple[str, ...] = ()
    """Names of the domains added behind the pretrained classes."""

    def conditions(self) -> str:
        """What can be told, in a few words."""
        names = (*self.class_names, *self.domains)
        return ", ".join(names) if names else f"class 0 to {self.classes - 1}"


class TranslationConfig(Settings):
    """How to translate. The defaults are the readings of the paper in docs/paper.md."""

    mode: Literal["parallel", "serial"] = "parallel"
    serial: Literal["native", "literal"] = "native"
    """``native`` accumulates as the tokenizer does; ``literal`` blends at each scale's own size (Algorithm 1)."""
    start: Literal["replace", "add", "keep"] = "replace"
    """How F_1 meets the start token in parallel mode: instead of it, added to it, or not at all. Serial translation
    always begins with the start token alone."""
    fusion: float = Field(0.5, gt=0, le=1)
    """The weight ``a`` of the predicted latent against the source's (Eq. 9)."""
    temperature: float = Field(2.0, gt=0)
    """Of the softmax over codes (Eq. 10)."""
    gumbel: bool = False
    """Add Gumbel noise to the logits while training."""
    context: Literal["multi", "last"] = "multi"
    """``last``: the finest scale does not see the coarser ones (Table 4)."""
    output: Literal["multi", "last"] = "multi"
    """``last``: only the finest predicted map counts (Table 4)."""
    extensions: ExtensionsConfig = ExtensionsConfig()

    @model_validator(mode="after")
    def _applies(self) -> Self:
        if self.mode == "serial" and self.serial == "literal" and self.output == "last":
            raise ValueError("output multi: Algorithm 1 as printed adds up what every scale predicts")
        return self


class LoopConfig(Settings):
    """How long to train and how often to look."""

    steps: PositiveInt
    log_every: PositiveInt = 20
    validate_every: PositiveInt = 500
    sample_every: PositiveInt = 500
    save_every: PositiveInt = 250
    keep: PositiveInt = 2
    """Checkpoints to keep."""
    on_divergence: Literal["stop", "restore"] = "stop"
    """What follows on a figure, gradient or weight that is not finite: the end, or the last checkpoint and, from there,
    all updates but the one that went wrong."""
    most_restores: PositiveInt = 3
    """Updates of a run that are left out so, at most; the next one that goes wrong ends it."""
    spike: float = Field(10.0, gt=1)
    """How many times its running median a loss or a gradient norm may be before a line says so."""


class DataConfig(Settings):
    """Which pictures to train on."""

    source: str = "emoji"
    """The built-in set, or a folder in any of the layouts of docs/data.md."""
    other: str | None = None
    """A second folder, where the two domains lie apart."""
    size: PositiveInt | None = None
    """Side of the training pictures, in pixels; None: the side that the model is made for, the only one that fits."""
    load_size: PositiveInt | None = None
    """Side to resize to before a random crop of ``size``; None for no cropping."""
    flip: bool = False
    skin_tones: bool = False
    """Train on the skin-tone variants of the built-in set too."""
    most_bad: Share = 0.1
    """Share of a domain's pictures that may be unreadable and left out; with more, the training stops."""
    validation_share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Share of each domain's training images that is held out for validation, if the data have no validation part."""
    validation_min: Annotated[int, Field(ge=2)] = 8
    """Images of each domain that are held out at least; a domain needs twice as many."""


class OptimizerConfig(Settings):
    """AdamW with linear warm-up, then no decay, a cosine to zero, or a straight line to zero over the second half."""

    learning_rate: PositiveFloat
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.01
    warmup: NonNegativeInt = 100
    decay: Literal["constant", "cosine", "linear"] = "constant"
    clip: PositiveFloat = 1.0
    """Largest gradient norm."""


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
    """What the discriminator minimises (`cyclevar.core.training.losses`)."""
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
    """Which parts of every block get adapters, by their names in `cyclevar.core.blocks`: all their linear layers."""


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
