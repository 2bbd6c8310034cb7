"""The search is the unselected run of all candidates, re-indexed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cyclevar_search.config import SearchConfig
from cyclevar_search.search import ROUND, Search, systematic
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.config.base import validate
from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces import Answer, ScaleStep, Select
from cyclevar.core.models.model import Model, build
from cyclevar.core.next_scale.generation import Generation, generate, generate_each, noise_generator
from cyclevar.core.next_scale.translation import translate


@pytest.fixture(scope="module")
def model() -> Model:
    """Small, with random weights that make every choice a matter of chance."""
    tokenizer = {"codebook_size": 64, "channels": 8, "width": 32, "residual_blocks": 1}
    torch.manual_seed(0)
    model = build(
        "var", "tiny", tokenizer=tokenizer, backbone={"depth": 2, "width": 32, "heads": 2}, schedule="1-2-3-4"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def brightness(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


class Unselected(Search):
    """All candidates to the end."""

    def choose(self, step: ScaleStep, scores: Tensor, last: bool) -> Select:
        return Select(range(len(step.samples)))


class Noted(Search):
    """Keeps what it answered."""

    answers: dict[int, Select]

    def on_scale_end(self, step: ScaleStep) -> Answer:
        answer = super().on_scale_end(step)
        if self.fresh and isinstance(answer, Select):
            self.answers = {**getattr(self, "answers", {}), step.scale: answer}
        return answer


def drawn(model: Model, search: Search, samples: list[int] | None = None) -> Generation:
    samples = samples or [0, 1]
    condition = model.backbone.condition(["noto", "fluent"][: len(samples)])
    return generate(model, condition, seed=7, samples=samples, callbacks=[search])


@pytest.mark.parametrize("verifier", [brightness, None])
def test_the_best_is_a_row_of_the_unselected_run(model: Model, verifier: Callable[[Tensor], Tensor] | None) -> None:
    config = SearchConfig(candidates=3)
    every = drawn(model, Unselected(config, verifier))
    best = drawn(model, Search(config, verifier))
    assert every.image.shape[0] == 6
    assert best.image.shape[0] == 2
    if verifier is None:
        codes = torch.cat([part.flatten(1) for part in every.codes], dim=1)
        scores = -model.tokenizer.quantizer.nll(every.logits, codes).sum(1)
    else:
        scores = verifier(every.image)
    rows = scores.view(2, 3).argmax(1) + torch.tensor([0, 3])
    assert torch.equal(best.image, every.image[rows])
    for one, other in zip(best.codes, every.codes, strict=True):
        assert torch.equal(one, other[rows])
    assert torch.equal(best.logits, every.logits[rows])


def test_candidates_share_nothing(model: Model) -> None:
    every = drawn(model, Unselected(SearchConfig(candidates=4), brightness))
    assert len({int(code) for code in every.codes[0][:4].flatten()}) > 1
    assert len({tuple(codes.flatten().tolist()) for codes in every.codes[1]}) == 8


def test_a_candidate_is_drawn_as_a_picture_of_its_number(model: Model) -> None:
    """With the noise of the second attempt, since the first scales were drawn again."""
    every = drawn(model, Unselected(SearchConfig(candidates=2), brightness))
    first = every.logits[1, :1]  # the second candidate of the first picture
    sampling = model.config.sampling
    noise = [noise_generator(7, ROUND, 0, 1)]
    code = model.tokenizer.quantizer.sample(first[None], int(sampling.top_k), float(sampling.top_p), noise)
    assert torch.equal(code.flatten(), every.codes[0][1].flatten())


def test_resampling_goes_on_with_chosen_states_and_other_noise(model: Model) -> None:
    search = Noted(SearchConfig(candidates=4, resample=(2,), temperature=0.1), brightness)
    best = drawn(model, search)
    chosen, final = search.answers[2], search.answers[len(model.schedule) - 1]
    assert [row // 4 for row in chosen.rows] == [0] * 4 + [1] * 4
    assert chosen.samples is not None
    assert len(set(chosen.samples)) == 8
    assert final.samples == [0, 1]
    every = drawn(model, Unselected(SearchConfig(candidates=4), brightness))
    for scale in range(3):
        resampled = every.codes[scale][list(chosen.rows)]
        assert torch.equal(best.codes[scale], resampled[list(final.rows)])

    class Twice(Unselected):
        """The same resampling, and nothing after."""

        def choose(self, step: ScaleStep, scores: Tensor, last: bool) -> Select:
            return Select(range(8)) if last else chosen

    unselected = drawn(model, Twice(SearchConfig(candidates=4, resample=(2,)), brightness))
    assert torch.equal(best.image, unselected.image[list(final.rows)])
    same = [place for place in range(1, 4) if chosen.rows[place] == chosen.rows[place - 1]]
    assert same
    for place in same:
        assert not torch.equal(unselected.codes[3][place], unselected.codes[3][place - 1])


def test_more_candidates_are_no_worse_and_more_are_better(model: Model) -> None:
    scores = [brightness(drawn(model, Search(SearchConfig(candidates=n), brightness)).image) for n in (2, 4, 8)]
    assert bool((scores[0] <= scores[1] + 1e-5).all())
    assert bool((scores[1] <= scores[2] + 1e-5).all())
    assert bool((scores[0] < scores[2] - 1e-4).any())


def test_a_picture_does_not_depend_on_its_neighbours(model: Model) -> None:
    config = SearchConfig(candidates=2, resample=(1, 2))
    both = drawn(model, Search(config))
    alone = drawn(model, Search(config), [0])
    for one, other in zip(both.codes, alone.codes, strict=True):
        assert torch.equal(one[:1], other)
    assert_close(both.image[:1], alone.image, atol=2e-4, rtol=1e-3)


def test_asked_for_by_name(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_verifier.py").write_text("def darkness(images):\n    return -images.mean((1, 2, 3))\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def draw(**settings: object) -> Tensor:
        extensions = {"callbacks": {"search": settings}} if settings else {}
        return torch.stack([image for *_, image in generate_each(model, ["noto"], 2, extensions=extensions)])

    plain, dark = draw(), draw(verifier="my_verifier:darkness", candidates=4)
    assert dark.shape == plain.shape
    assert float(brightness(dark).sum()) < float(brightness(plain).sum())
    with pytest.raises(ConfigError, match="there is no verifier my_verifier:light"):
        draw(verifier="my_verifier:light")
    with pytest.raises(ConfigError, match="expected scales below 3"):
        draw(resample=[7])


def test_a_translation_is_refused(model: Model) -> None:
    config = validate(TranslationConfig, {"extensions": {"callbacks": {"search": {}}}})
    with pytest.raises(ConfigError, match="a translation draws nothing"):
        translate(model, torch.zeros(1, 3, *model.image_size), model.backbone.condition(["noto"]), config)


def test_systematic_resampling_is_proportional() -> None:
    weights = torch.tensor([0.5, 0.25, 0.25, 0.0])
    for point in (0.0, 0.3, 0.99):
        assert sorted(systematic(weights, point)) == [0, 0, 1, 2]
    weights = torch.rand(16, generator=torch.Generator().manual_seed(0)).softmax(0)
    counts = torch.bincount(torch.tensor(systematic(weights, 0.5)), minlength=16)
    assert bool(((counts - 16 * weights).abs() < 1).all())
