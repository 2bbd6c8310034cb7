"""Best-of-N, and resampling on the way as a particle filter does (TTS-VAR, arXiv 2507.18537, has both for VAR)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces import Answer, Callback, Rewind, ScaleStep, Select, Session
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.generation import noise_generator
from cyclevar_search.config import LIKELIHOOD, SearchConfig

Verifier = Callable[[Tensor], Tensor]

ROUND = 2**32
"""Candidate c of picture n has the number ``n + ROUND * c`` at first; each resampling gives numbers beyond those."""


class Search(Callback):
    """Widens the batch to all candidates of every picture, neighbours in it, and narrows it to the best at the end.

    The batch is widened after the first scale, which is then drawn again, so that no candidate shares anything. Every
    candidate's noise follows from its number, so the outcome for a picture does not depend on the others in the batch.
    """

    def __init__(self, config: SearchConfig, verifier: Verifier | None = None) -> None:
        self.config = config
        self.verifier = verifier or load_verifier(config.verifier)
        self.wide = self.fresh = False
        self.rounds = 1
        self.likelihood: Tensor | None = None

    def begin(self, session: Session) -> None:
        if session.task != "generate" or not isinstance(session.model, Model):
            raise ConfigError("a search was asked for", expected="a generation: a translation draws nothing")
        assert session.schedule is not None
        scales = len(session.schedule)
        wrong = [scale for scale in self.config.resample if scale >= scales - 1]
        if scales < 2 or wrong:
            raise ConfigError(
                f"a search resamples after the scales {wrong} of {scales}", expected=f"scales below {scales - 1}"
            )
        self.wide = self.fresh = False
        self.rounds, self.likelihood = 1, None

    def on_scale_end(self, step: ScaleStep) -> Answer:
        count = self.config.candidates
        if not self.wide:
            self.wide = True
            rows = [row for row in range(len(step.samples)) for _ in range(count)]
            return Select(rows, [step.samples[row] + ROUND * (place % count) for place, row in enumerate(rows)])
        if not self.fresh:
            self.fresh = True
            return Rewind(0)
        assert step.logits is not None
        assert step.codes is not None
        model = step.session.model
        assert isinstance(model, Model)
        drawn = -model.tokenizer.quantizer.nll(step.logits, step.codes.flatten(1, 2)).sum(1)
        self.likelihood = drawn if self.likelihood is None else self.likelihood + drawn
        assert step.session.schedule is not None
        last = step.scale + 1 == len(step.session.schedule)
        if last or step.scale in self.config.resample:
            return self.choose(step, self.scores(step, model).view(-1, count), last)
        return None

    def scores(self, step: ScaleStep, model: Model) -> Tensor:
        """What the verifier says of every candidate ``[B]``; of unfinished ones it sees previews."""
        if self.verifier is None:
            assert self.likelihood is not None
            return self.likelihood
        assert step.state is not None
        return self.verifier(step.session.decode(model.tokenizer.latent(step.state))).float()

    def choose(self, step: ScaleStep, scores: Tensor, last: bool) -> Select:
        """The best of each picture's candidates ``[pictures,candidates]``, or as many as there were."""
        count = self.config.candidates
        pictures = [step.samples[row] % ROUND for row in range(0, len(step.samples), count)]
        if last:
            best = [row * count + int(one) for row, one in enumerate(scores.argmax(1))]
            return Select(best, pictures)
        rows: list[int] = []
        numbers: list[int] = []
        for row, (number, some) in enumerate(zip(pictures, scores, strict=True)):
            weights = ((some - some.mean()) / (some.std() * self.config.temperature + 1e-9)).softmax(0)
            point = torch.rand((), generator=noise_generator(self.config.seed, number, step.scale))
            rows += [row * count + one for one in systematic(weights, float(point))]
            numbers += [number + ROUND * (self.rounds * count + place) for place in range(count)]
        self.rounds += 1
        assert self.likelihood is not None
        self.likelihood = self.likelihood[rows]
        return Select(rows, numbers)


def systematic(weights: Tensor, point: float) -> Sequence[int]:
    """As many draws as there are ``weights``, which sum to 1, evenly spaced from ``point`` in [0,1) on.

    Index i comes up ``n * weights[i]`` times, rounded up or down.
    """
    places = (torch.arange(len(weights)) + point) / len(weights)
    chosen = torch.searchsorted(weights.cpu().double().cumsum(0), places.double(), right=True)
    return [int(one) for one in chosen.clamp_max(len(weights) - 1)]


def load_verifier(name: str) -> Verifier | None:
    """The function of that name; None for the likelihood. Raises `ConfigError` where there is none."""
    if name == LIKELIHOOD:
        return None
    module, _, attribute = name.partition(":")
    try:
        found: Verifier = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"there is no verifier {name}: {error}", expected=f"{LIKELIHOOD} or module:function"
        ) from error
    return found
