"""Infinity's transformer: text-conditional next-scale prediction of bits (Infinity Sec. 3)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from cyclevar.core.attention.cache import KeyValueCache
from cyclevar.core.attention.kernels import attend_to_text
from cyclevar.core.attention.plan import Visibility, plan_attention
from cyclevar.core.config.inference import SamplingConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces.backbone import Backbone, Condition, Start, Targets
from cyclevar.core.networks.transformer import AdaLNBlock, Text, exact, half_if, modulated_logits, modulations
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.infinity.config import WORDS, InfinityBackboneConfig, InfinitySampling
from cyclevar.plugins.infinity.rotary import rotary_on
from cyclevar.plugins.infinity.text import WordEncoder, t5_features

SCALES = 15
"""Scales that have an embedding, however many a schedule uses."""


class TextPool(nn.Module):
    """A text as one vector: attention of a learned query a head to its tokens."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        heads = max(1, channels // (128 if width <= 4096 else 64))
        self.query = nn.Parameter(torch.empty(1, heads, width // heads))
        self.key_value = nn.Linear(channels, 2 * width, bias=False)
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)

    def forward(self, text: Text) -> Tensor:
        """Text ``[B,T,channels]`` to ``[B,width]``, in float32."""
        key, value = exact(self.key_value, text.tokens).chunk(2, dim=-1)
        shape = self.query.shape[1:]
        query = self.query.float().expand(len(key), 1, *shape)
        key, value = key.unflatten(-1, shape), (value + self.value_bias.float()).unflatten(-1, shape)
        with torch.autocast(key.device.type, enabled=False):
            mixed = attend_to_text(query, key, value, text.present)
        return exact(self.out, mixed.flatten(1))


class InfinityBackbone(Backbone):
    """Tokens of all scales in one sequence; positions are rotations, so any schedule of up to 15 scales will do.

    ``blocks`` may have weights of half precision: they then compute in it, while all else is float32.
    """

    config: InfinityBackboneConfig
    capabilities = frozenset({"cache_policy", "cross_attention", "taps"})
    prompt_features: Tensor

    def __init__(self, config: InfinityBackboneConfig, channels: int) -> None:
        super().__init__()
        width, hidden = config.width, max(1, round(config.width * config.mlp_ratio / 256)) * 256
        self.config = config
        self.depth, self.logit_dim = config.depth, 2 * channels
        self.embed = nn.Linear(channels, width)
        self.null_embedding = nn.Parameter(torch.empty(config.text_length, config.text_channels))
        self.start_position = nn.Parameter(torch.empty(1, 1, width))
        self.scale_embedding = nn.Parameter(torch.empty(SCALES, width))
        self.text_norm = nn.RMSNorm(config.text_channels, eps=1e-6)
        self.pool = TextPool(config.text_channels, width)
        self.text_projection = nn.Sequential(
            nn.Linear(config.text_channels, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
        )
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(
            AdaLNBlock(
                width,
                config.heads,
                hidden,
                shared_modulation=True,
                qk_norm=True,
                norm_eps=config.norm_eps,
                drop_path=config.drop_path * i / max(config.depth - 1, 1),
                text=True,
            )
            for i in range(config.depth)
        )
        self.head_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, self.logit_dim)
        if config.text_encoder == WORDS:
            self.words = WordEncoder(config.word_buckets, config.text_channels)
        self.register_buffer("prompt_features", torch.zeros(sum(config.encoded_prompts.values()), config.text_channels))
        self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        """Narrow normals, a small head, gates almost closed, residual branches scaled down by depth."""
        std = math.sqrt(1 / self.config.width / 3)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif not name.endswith(("log_scale", "text_norm.weight")):
                nn.init.trunc_normal_(parameter, std=std)
        nn.init.normal_(self.null_embedding, std=self.config.text_channels**-0.5)
        self.head.weight.mul_(0.02)
        self.modulation.weight[: 2 * self.config.width].mul_(1e-3)
        for block in self.blocks:
            assert isinstance(block, AdaLNBlock)
            block.modulation_offset[:, :, :2].mul_(1e-3)
            for branch in (block.attention.out, block.text_attention.out, block.feed_forward.down):
                branch.weight.div_(math.sqrt(2 * self.depth))
        self.head_modulation.weight.mul_(0.5)

    @property
    def names(self) -> tuple[str, ...]:
        """Domains that have a prompt of their own; `condition` takes any other prompt too."""
        return tuple(self.config.prompts)

    def add_domain(self, name: str, like: int | str | None = None) -> None:
        """Know a domain by the prompt of the domain ``like``, or by ``like`` itself, or by its own name."""
        if name in self.names:
            raise ConfigError(f"there is already a domain {name!r}", hint="choose another name")
        prompt = self._prompt(name if like is None else like)
        self.remember([prompt])
        self.config = self.config.model_copy(update={"prompts": {**self.config.prompts, name: prompt}})

    def domain_parameters(self) -> Sequence[nn.Parameter]:
        """The features of words, where they are learned; those of T5 say enough."""
        return (self.words.embedding,) if self.config.text_encoder == WORDS else ()

    @torch.no_grad()
    def remember(self, targets: Sequence[int | str]) -> None:
        """Store what T5 makes of the targets' prompts with the weights."""
        prompts = {target: self._prompt(target) for target in targets}.values()
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.config.encoded_prompts]
        if self.config.text_encoder == WORDS or not new:
            return
        features = [self._features(prompt).to(self.prompt_features) for prompt in new]
        self.prompt_features = torch.cat([self.prompt_features, *features])
        lengths = {prompt: len(part) for prompt, part in zip(new, features, strict=True)}
        stored = {**self.config.encoded_prompts, **lengths}
        self.config = self.config.model_copy(update={"encoded_prompts": stored})

    def any_target(self) -> str:
        """A prompt that needs no T5: one that is stored, else one of 16 tokens that mean nothing."""
        config = self.config
        if config.text_encoder != WORDS and not config.encoded_prompts:
            self.prompt_features = torch.cat(
                [self.prompt_features, self.prompt_features.new_zeros(16, config.text_channels)]
            )
            self.config = config.model_copy(update={"encoded_prompts": {"anything": 16}})
        return next(iter(self.config.encoded_prompts), "anything")

    def condition(self, targets: Targets) -> Condition:
        """Names or prompts, one a picture. The vector is the pooled text; the tokens are what the blocks look up.

        The null condition reads as many learned rows as the prompt has tokens. Raises `ConfigError` for a prompt that
        is empty or too long, or a number; `CheckpointError` for one that is not stored and cannot be encoded here.
        """
        prompts = [self._prompt(target) for target in (targets.tolist() if isinstance(targets, Tensor) else targets)]
        different = list(dict.fromkeys(prompts))
        features = [self._features(prompt) for prompt in different]
        counts, device = [len(part) for part in features], self.null_embedding.device
        lengths = torch.tensor(counts, device=device) if len(set(counts)) > 1 else None
        own = pad_sequence(features, batch_first=True)
        null = self.null_embedding[: own.shape[1]].float().expand_as(own)
        rows = torch.tensor([different.index(prompt) for prompt in prompts], device=device)
        one, other = (self._encode(text, lengths, rows) for text in (own, null))
        return Condition(one.vector, one.tokens, one.lengths, null=other)

    def prepared(self, condition: Condition) -> Condition:
        return replace(condition, modulation=modulations(self.blocks, self._shared(condition)))

    def _shared(self, condition: Condition) -> Tensor:
        return exact(self.modulation, F.silu(condition.vector))

    def _prompt(self, target: int | str) -> str:
        if not isinstance(target, str):
            raise ConfigError(f"{target} is a number", expected="a prompt, or the name of a domain")
        return self.config.prompts.get(target, target)

    def _features(self, prompt: str) -> Tensor:
        """Features ``[T,text_channels]`` of a prompt, float32."""
        config = self.config
        if config.text_encoder == WORDS:
            words: Tensor = self.words(prompt, config.text_length)
            return words.float()
        if prompt in config.encoded_prompts:
            begin = 0
            for stored, length in config.encoded_prompts.items():
                if stored == prompt:
                    return self.prompt_features[begin : begin + length].float()
                begin += length
        features = t5_features(config.text_encoder, prompt, config.text_length, config.text_channels)
        return features.to(self.null_embedding.device)

    def _encode(self, features: Tensor, lengths: Tensor | None, rows: Tensor) -> Condition:
        """What the blocks are told of texts ``[N,T,text_channels]``, for pictures that each have one of them."""
        with torch.autocast(features.device.type, enabled=False):
            features = F.rms_norm(features, features.shape[-1:], self.text_norm.weight.float(), self.text_norm.eps)
        first, gelu, second = self.text_projection
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        tokens = exact(second, gelu(exact(first, features)))
        pooled = self.pool(Text(features, _present(lengths, features.shape[1])))
        return Condition(pooled[rows], tokens[rows], None if lengths is None else lengths[rows])

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
        return self._logits(self._hidden(features, condition, schedule, first, cache, visibility, start), condition)

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
        """As `Backbone.guided`, or with guidance inside: the mix of both halves goes on in the place of each."""
        assert isinstance(sampling, InfinitySampling)
        layers = sampling.guidance_layers
        if any(not -self.depth < layer <= 0 for layer in layers):
            raise ConfigError(
                f"guidance_layers is {list(layers)}", expected=f"0 for the logits, or -1 to {1 - self.depth}"
            )
        mixed = {self.depth + layer for layer in layers if layer} if strength != sampling.no_guidance else set()
        doubled = None if feature is None else torch.cat([feature, feature])
        both = condition.with_null()
        x = self._hidden([doubled], both, schedule, scale, cache, mixed=mixed, strength=strength)
        if 0 in layers and strength != sampling.no_guidance:
            own, null = self._logits(x, both).chunk(2)
            return self.guide(own, null, strength, scale, schedule, sampling)
        return self._logits(x[: len(condition)], condition)

    def guide(
        self,
        logits: Tensor,
        null_logits: Tensor,
        strength: float,
        scale: int,
        schedule: ScaleSchedule,
        sampling: SamplingConfig,
    ) -> Tensor:
        """Infinity's guidance: 1 is none, and it is the same at all scales unless the settings name one a scale."""
        return strength * logits + (1 - strength) * null_logits

    def _hidden(
        self,
        features: Sequence[Tensor | None],
        condition: Condition,
        schedule: ScaleSchedule,
        first: int,
        cache: KeyValueCache | None,
        visibility: Visibility | None = None,
        start: Start = "replace",
        *,
        mixed: Collection[int] = (),
        strength: float = 1.0,
    ) -> Tensor:
        """What the last block puts out, ``[B,l,width]``; behind the blocks ``mixed``, guidance of a doubled batch."""
        if len(schedule) > SCALES:
            raise ConfigError(f"the schedule {schedule} has {len(schedule)} scales", expected=f"at most {SCALES}")
        scales = range(first, first + len(features))
        x = torch.cat(
            [self._tokens(k, part, condition, schedule, start) for k, part in zip(scales, features, strict=True)], 1
        )
        visibility = visibility or (cache.visibility if cache else Visibility.causal(len(schedule)))
        kept = cache.kept if cache else ()
        plan = plan_attention(schedule, visibility, scales, kept, self.attention_backend, x.device)
        told = condition.modulation or [self._shared(condition)] * self.depth
        sizes, head_dim = tuple(schedule.sizes[k] for k in scales), self.config.width // self.config.heads
        rotary = rotary_on(x.device, sizes, schedule.full, head_dim, self.config.rotary)
        assert condition.tokens is not None
        text = Text(condition.tokens, _present(condition.lengths, condition.tokens.shape[1]))
        with half_if(self.head.weight):
            for layer, block in enumerate(self.blocks):
                x = self.run_block(block, x, told[layer], plan, cache, layer, rotary, text)
                if layer in mixed:
                    own, null = x.chunk(2)
                    x = (strength * own + (1 - strength) * null).repeat(2, 1, 1)
        if cache is not None:
            cache.commit(scales)
        return x

    def _tokens(
        self, scale: int, part: Tensor | None, condition: Condition, schedule: ScaleSchedule, start: Start
    ) -> Tensor:
        """Embedded tokens ``[B,h_k*w_k,width]`` of one scale; the start token is the pooled text."""
        tokens = [] if part is None else [exact(self.embed, part.flatten(2).transpose(1, 2))]
        if scale == 0 and (part is None or start == "add"):
            tokens.append((condition.vector[:, None] + self.start_position).expand(-1, schedule.lengths[0], -1))
        if not tokens:
            raise ConfigError(f"scale {scale} was given no map", expected="a map for every scale but the first")
        return sum(tokens, start=self.scale_embedding[scale].float())

    def _logits(self, x: Tensor, condition: Condition) -> Tensor:
        return modulated_logits(x, condition.vector, self.head_modulation, self.head, self.config.norm_eps)


def _present(lengths: Tensor | None, longest: int) -> Tensor | None:
    """Which of ``longest`` tokens count, bool ``[B,longest]``; None where all do."""
    return None if lengths is None else torch.arange(longest, device=lengths.device) < lengths[:, None]
