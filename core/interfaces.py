"""What a family brings: a tokenizer, its quantizer, a backbone; and what judges pictures: a discriminator.

Shapes: images ``[B,3,H,W]`` float in [-1,1]; a latent ``[B,C,h,w]``; a map ``[B,C,h_k,w_k]`` is what one scale of the
schedule says of the latent; tokens are maps packed row-major, ``[B,L,C]`` with ``L = sum h_k*w_k``. Maps have the
channels of the latent, or those of its patches where a family folds patches into channels.

Parts hold tensors as parameters and buffers only, so that they can be built without memory and filled later.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cyclevar.core.config import SamplingConfig
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.core.settings import Settings

if TYPE_CHECKING:
    from cyclevar.core.attention import AttentionPlan, Visibility
    from cyclevar.core.cache import KeyValueCache

Start = Literal["replace", "add"]
"""How a map given at scale 0 meets the start token: instead of it, or added to it (specs of CycleVAR Eq. 8)."""

Targets = Sequence[int | str] | Tensor
"""One class id, domain name or prompt per picture."""

Generators = torch.Generator | Sequence[torch.Generator] | None
"""Where random numbers come from: one generator for all, one per picture (first axis), or None: the global state."""


class Quantized(NamedTuple):
    """Quantized vectors and their codes.

    ``maps``: float, in the layout of what was quantized (``[B,C,h,w]``, or ``[...,C]`` from logits);
    ``codes``: int64 ``[B,h,w]`` indices, or bool ``[B,h,w,d]`` bits, without the channel axis.
    """

    maps: Tensor
    codes: Tensor


class View(NamedTuple):
    """What a training tokenizer decodes, ``latent [B,C,h,w]``, and the ``images [B,3,H,W]`` that it should become."""

    latent: Tensor
    images: Tensor


@dataclass(frozen=True)
class ScaleState:
    """A latent under construction: ``value`` after the first ``scale`` maps of ``schedule`` were absorbed."""

    schedule: ScaleSchedule
    scale: int
    value: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Size ``(h_k, w_k)`` of the map that comes next."""
        return self.schedule.sizes[self.scale]


@dataclass(frozen=True)
class Condition:
    """What the backbone is told about the target domain, one row per picture.

    ``vector``: float ``[B,D]``; ``tokens``: float ``[B,T,D_text]`` or None, of which the first ``lengths`` (int64
    ``[B]``, or None for all) count; ``prefix``: float ``[B,P,width]`` or None, tokens that stand before the first
    scale; ``null``: the same for "no condition", which guidance contrasts with; ``modulation``: what
    `Backbone.prepared` made of it, one tensor a block.
    """

    vector: Tensor
    tokens: Tensor | None = None
    lengths: Tensor | None = None
    null: Condition | None = None
    modulation: tuple[Tensor, ...] = ()
    prefix: Tensor | None = None

    def __len__(self) -> int:
        return self.vector.shape[0]

    def with_null(self) -> Condition:
        """The batch doubled: every row with its condition, then every row with the null condition."""
        if self.null is None:
            raise ValueError("this condition has no null counterpart")
        joined: dict[str, Tensor] = {}
        for field in fields(self):
            mine, other = getattr(self, field.name), getattr(self.null, field.name)
            if isinstance(mine, Tensor):
                joined[field.name] = torch.cat([mine, other])
        both = zip(self.modulation, self.null.modulation, strict=False)
        return Condition(**joined, modulation=tuple(torch.cat(pair) for pair in both))  # type: ignore[arg-type]

    def chosen(self, rows: Tensor) -> Condition:
        """The condition of these rows (int64), in this order."""
        joined = {field.name: getattr(self, field.name) for field in fields(self)}
        mine = {name: value[rows] for name, value in joined.items() if isinstance(value, Tensor)}
        modulation = tuple(part[rows] for part in self.modulation)
        null = None if self.null is None else self.null.chosen(rows)
        return Condition(**mine, null=null, modulation=modulation)

    def dropped(self, rows: Tensor) -> Condition:
        """The condition with the null condition in the given rows (bool ``[B]``): dropout for guidance."""
        null = self.null
        assert null is not None
        mixed: dict[str, Tensor | None] = {}
        for field in fields(self):
            mine, other = getattr(self, field.name), getattr(null, field.name)
            if isinstance(mine, Tensor):
                mixed[field.name] = torch.where(rows.view(-1, *[1] * (mine.ndim - 1)), other, mine)
        return Condition(**mixed, null=null)  # type: ignore[arg-type]


class Quantizer(nn.Module, ABC):
    """Vectors to codes and back, hard or soft. Vectors are ``[B,C,h,w]`` in ``quantize``, ``[...,C]`` elsewhere."""

    channels: int
    logit_dim: int

    @abstractmethod
    def quantize(self, maps: Tensor) -> Quantized:
        """Nearest code of every position of ``[B,C,h,w]``; gradients pass straight through to ``maps``."""

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Codes to vectors ``[...,C]``."""

    @abstractmethod
    def relax(self, logits: Tensor, temperature: float, gumbel: bool = False) -> Tensor:
        """Softmax Relaxed Quantization: logits ``[...,logit_dim]`` to expected codes ``[...,C]``, float32 (Eq. 10-11).

        ``gumbel`` adds Gumbel noise to the logits before the division by ``temperature``.
        """

    @abstractmethod
    def harden(self, logits: Tensor) -> Quantized:
        """The most probable code of every position, vectors ``[...,C]``: the limit of ``relax`` at temperature 0."""

    @abstractmethod
    def sample(self, logits: Tensor, top_k: int = 0, top_p: float = 0.0, generator: Generators = None) -> Tensor:
        """Draw codes from logits ``[B,...,logit_dim]`` after top-k and top-p filtering (0 switches a filter off).

        With a generator per picture, what is drawn for one does not depend on the others.
        """

    @abstractmethod
    def nll(self, logits: Tensor, codes: Tensor) -> Tensor:
        """Negative log-likelihood of ``codes`` in nats, float32, without the last axis of ``logits``."""

    @abstractmethod
    def entropy(self, logits: Tensor, temperature: float) -> Tensor:
        """Entropy in nats of the choice that `relax` averages over, float32, without the last axis of ``logits``."""


class CodebookQuantizer(Quantizer, ABC):
    """A quantizer whose codes are the rows of a learned table, which training starts by k-means and refills."""

    codebook: nn.Parameter
    """float ``[logit_dim,C]``."""

    @abstractmethod
    def comparable(self, vectors: Tensor) -> Tensor:
        """Vectors ``[...,C]`` as they are when they are compared with codes: what a code can equal."""


class Tokenizer(nn.Module, ABC):
    """Images to latents, latents to images, and the recursion that builds a latent scale by scale.

    The recursion is pure: no method changes what it was given, so a state can be kept, selected or rewound.
    """

    stride: int
    """Side, in pixels, of a cell of the finest map."""
    channels: int
    """Channels of the latent."""
    quantizer: Quantizer
    default_schedule: ScaleSchedule
    config: Settings

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Images ``[B,3,H,W]`` in [-1,1] to continuous latents ``[B,C,h,w]``."""

    @abstractmethod
    def decode(self, latent: Tensor, *, clamp: bool = True) -> Tensor:
        """Latents to images in [-1,1]; ``clamp=False`` leaves values outside, for losses with gradients there."""

    @abstractmethod
    def begin(self, batch: int, schedule: ScaleSchedule) -> ScaleState:
        """The empty state, before the first scale."""

    @abstractmethod
    def target(self, latent: Tensor, state: ScaleState) -> Tensor:
        """What the map of scale ``state.scale`` should encode so that the states approach ``latent``."""

    @abstractmethod
    def absorb(self, state: ScaleState, part: Tensor) -> ScaleState:
        """The state after the map ``part`` of scale ``state.scale``."""

    @abstractmethod
    def next_input(self, state: ScaleState) -> Tensor | None:
        """The map that a backbone reads at scale ``state.scale``; None at scale 0, where the start token stands."""

    @abstractmethod
    def latent(self, state: ScaleState) -> Tensor:
        """The latent built so far, at full size; of a partial state, a preview."""

    @abstractmethod
    def context(self, maps: Sequence[Tensor], schedule: ScaleSchedule, latent: Tensor | None = None) -> list[Tensor]:
        """F_1..F_K, the source features of every scale that a translating backbone reads (CycleVAR Eq. 5).

        With the continuous ``latent`` that ``maps`` quantize, gradients pass straight through to it.
        """

    @abstractmethod
    def upsample(self, part: Tensor, size: tuple[int, int]) -> Tensor:
        """A map at the size of a finer scale, with the kernel of this family."""

    def as_latent(self, part: Tensor) -> Tensor:
        """A full-size map in the layout of the latent (they differ where maps are patchified)."""
        return part

    # What only training asks for, with answers that fit a latent which all scales build together.

    def training_schedule(self, random: Random) -> ScaleSchedule:
        """The schedule of one update; ``random`` is keyed to its step."""
        return self.default_schedule

    def corrupt(self, codes: Tensor, scale: int, random: Random) -> Tensor:
        """The codes of a scale as a backbone in pre-training is to see them in what it reads: here the right ones.

        A family that samples with errors may put some into its lessons; ``random`` is keyed to the update.
        """
        return codes

    def unquantized(self, latent: Tensor) -> Tensor:
        """A continuous latent as `decode` reads it where there are no codes yet."""
        return latent

    def start_quantizing(self) -> None:
        """Before the first codes: a neutral beginning for the parameters that the recursion has, if it has any."""

    def approximations(
        self, latent: Tensor, codes: Sequence[Tensor], schedule: ScaleSchedule
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Of every scale, what its codes make and what that should be, with gradients to code book and ``latent``.

        Here each partial sum, against the whole latent (VAR's objective).
        """
        state = self.begin(latent.shape[0], schedule)
        for part in codes:
            state = self.absorb(state, self.quantizer.lookup(part).movedim(-1, 1))
            yield self.latent(state), latent

    def views(
        self, maps: Sequence[Tensor], schedule: ScaleSchedule, images: Tensor, latent: Tensor | None = None
    ) -> list[View]:
        """What to decode of the quantized ``maps`` of ``images``, the full size last; ``latent`` as in `context`."""
        return [View(self.as_latent(self.context(maps, schedule, latent)[-1]), images)]


class Backbone(nn.Module, ABC):
    """A next-scale autoregressive transformer.

    One call serves teacher forcing, parallel translation and cached single-scale steps; all three agree to rounding.
    """

    depth: int
    logit_dim: int
    config: Settings
    capabilities: frozenset[str] = frozenset()
    """What run-time parts can rely on beyond this interface: ``cache_policy`` (its attention calls `KeyValueCache.plan`
    and `KeyValueCache.settle`), ``taps`` (its transformer blocks are the children of ``blocks``), ``prefix`` and
    ``cross_attention`` (it reads `Condition.prefix`, `Condition.tokens`), ``text`` (targets are prompts)."""
    attention_backend: str = "auto"
    """Which kernel `cyclevar.core.attention` uses."""
    gradient_checkpointing: bool = False
    """Compute the blocks again in the backward pass instead of keeping their insides: less memory, more time."""

    def run_block(
        self, block: nn.Module, x: Tensor, shared: Tensor, plan: AttentionPlan, cache: KeyValueCache | None, *more: Any
    ) -> Tensor:
        """What ``block`` makes of tokens ``[B,l,width]``; all inputs are passed on in this order.

        Where a cache is filled nothing is computed again, since a block must not write to it twice.
        """
        if self.gradient_checkpointing and cache is None and torch.is_grad_enabled():
            x = checkpoint(block, x, shared, plan, cache, *more, use_reentrant=False)
        else:
            x = block(x, shared, plan, cache, *more)
        return x

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Domain names that `condition` knows."""

    @abstractmethod
    def add_domain(self, name: str, like: int | str | None = None) -> None:
        """Know a new domain from here on, starting from the class or domain ``like``, or from the mean of all."""

    def any_target(self) -> int | str:
        """Something that `condition` takes and that needs nothing besides the model: for passes that are only timed."""
        return self.names[0] if self.names else 0

    def remember(self, targets: Sequence[int | str]) -> None:
        """Keep in the model what `condition` needs of these targets, so that once saved it needs nothing beside it.

        Encoded prompts, for instance. Classes and names are kept anyway, so here this does nothing.
        """

    def domain_parameters(self) -> Sequence[nn.Parameter]:
        """What the domains that were added are known by: it learns even where the other weights are frozen."""
        return ()

    @abstractmethod
    def condition(self, targets: Targets) -> Condition:
        """Class ids, domain names or prompts, one per picture, with the null condition attached."""

    def prepared(self, condition: Condition) -> Condition:
        """The condition with what all calls of `forward` would compute of it alike: worth it for more than one."""
        return condition

    @abstractmethod
    def forward(
        self,
        features: Sequence[Tensor | None],
        condition: Condition,
        schedule: ScaleSchedule,
        *,
        first: int = 0,
        cache: KeyValueCache | None = None,
        visibility: Visibility | None = None,
        start: Start = "replace",
    ) -> Tensor:
        """Logits ``[B,l,logit_dim]`` (float32) of the scales ``first .. first+len(features)-1``.

        ``features``: one map per scale; None at scale 0 is the start token. ``cache`` holds keys and values of
        the scales before ``first``. ``visibility`` says which scale sees which (default: scale-causal).
        """

    def training_schedule(self, schedule: ScaleSchedule, random: Random) -> ScaleSchedule:
        """The schedule of one update of pre-training a model for ``schedule``; ``random`` is keyed to its step."""
        return schedule

    def guided(
        self,
        feature: Tensor | None,
        condition: Condition,
        schedule: ScaleSchedule,
        scale: int,
        cache: KeyValueCache,
        strength: float,
        sampling: SamplingConfig,
    ) -> Tensor:
        """Guided logits of one scale. The batch runs doubled, with the null condition in its second half.

        ``strength`` is the guidance of this scale; ``sampling`` brings what else the family lets a user choose.
        """
        doubled = None if feature is None else torch.cat([feature, feature])
        logits = self([doubled], condition.with_null(), schedule, first=scale, cache=cache)
        own, null = logits.chunk(2)
        return self.guide(own, null, strength, scale, schedule, sampling)

    @abstractmethod
    def guide(
        self,
        logits: Tensor,
        null_logits: Tensor,
        strength: float,
        scale: int,
        schedule: ScaleSchedule,
        sampling: SamplingConfig,
    ) -> Tensor:
        """Classifier-free guidance as this family defines it, for the logits of one scale."""


class PictureLoss(nn.Module, ABC):
    """A loss between pictures and what they should be; what it looks with is frozen."""

    frozen: str = ""
    """Name and hash of the weights that it looks with: a run records them."""

    @abstractmethod
    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        """A scalar, 0 for equal pictures ``[B,3,H,W]`` in [-1,1], differentiable in ``output``."""


class PictureMetric(nn.Module, ABC):
    """A figure of the evaluation: what is seen of every picture, and what follows from it for a set of pictures."""

    title: str
    """How tables call it."""
    form: str = "{:.3f}"
    """How a value is written."""
    against: Literal["source", "target", "pair"] = "target"
    """What a set is compared with: the pictures that it was made from, those of the domain that it should look like
    (which may be another number of pictures), or, picture by picture, the true counterparts."""
    needed: int = 2
    """Pictures on either side below which it says nothing."""
    frozen: str = ""
    """Name and hash of the weights that it looks with."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Images ``[B,3,H,W]`` in [-1,1] to what the figure needs of each, ``[B,...]``: computed once, and cached."""

    @abstractmethod
    def compare(self, made: Tensor, others: Tensor) -> Tensor:
        """Features ``[N,...]`` and ``[M,...]``, on the CPU, to the figure: a scalar, or ``[N]``, a value a picture.

        Against ``source`` and ``pair``, N equals M and row i belongs to row i. Values a picture become their mean with
        an interval.
        """


class Discriminator(nn.Module, ABC):
    """Judges whether pictures belong to a domain: trainable heads, possibly over frozen features."""

    frozen: str = ""
    """Name and hash of frozen weights that came from a file and are no part of the state: a run records them."""

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Images ``[B,3,H,W]`` in [-1,1] to logit maps, one tensor per head, larger means more real."""
