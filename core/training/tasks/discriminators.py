"""The discriminators of a training."""

from __future__ import annotations

from cyclevar.core.extension.manager import get_manager
from cyclevar.core.interfaces.criteria import Discriminator


def build_discriminator(name: str, settings: dict[str, object]) -> Discriminator:
    """A registered discriminator with the given settings."""
    discriminator = get_manager().build("discriminator", name, settings)
    assert isinstance(discriminator, Discriminator)
    return discriminator
