"""What every decoder promises."""

from __future__ import annotations

import torch

from cyclevar.core.contract.fixtures import *  # noqa: F403
from cyclevar.core.contract.fixtures import Settings, build_part
from cyclevar.core.models.model import Model

KIND = "decoder"


@torch.no_grad()
def test_latents_become_pictures(name: str, cyclevar_contract_settings: Settings, host: Model) -> None:
    decode = build_part(cyclevar_contract_settings, KIND, name, host)
    latent = torch.randn(2, host.tokenizer.channels, *host.schedule.full, generator=torch.Generator().manual_seed(0))
    given = latent.clone()
    images = decode(latent)
    assert images.shape == (2, 3, *host.image_size)
    assert float(images.abs().max()) <= 1
    assert torch.equal(latent, given)
    free = decode(latent, clamp=False)
    assert torch.equal(free.clamp(-1, 1), images), "clamp=False only leaves values outside of [-1,1] as they are"
