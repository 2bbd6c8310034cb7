"""What every data set promises."""

from __future__ import annotations

from cyclevar.core.contract.fixtures import *  # noqa: F403
from cyclevar.core.contract.fixtures import Settings, build_part
from cyclevar.core.data.sources import UnpairedDataset

KIND = "dataset"


def test_two_domains_with_pictures(name: str, cyclevar_contract_settings: Settings) -> None:
    data = build_part(cyclevar_contract_settings, KIND, name)
    assert isinstance(data, UnpairedDataset)
    assert len(set(data.domains)) == 2
    for pictures in data.train:
        assert len(pictures) > 0
        assert pictures[0].mode == "RGB"
        assert len(set(pictures.names)) == len(pictures)


def test_parts_share_no_picture(name: str, cyclevar_contract_settings: Settings) -> None:
    data = build_part(cyclevar_contract_settings, KIND, name)
    for trained, *held_out in zip(data.train, *(part for part in (data.validation, data.test) if part), strict=True):
        for pictures in held_out:
            assert not set(trained.names) & set(pictures.names)


def test_it_is_the_same_each_time(name: str, cyclevar_contract_settings: Settings) -> None:
    once, again = (build_part(cyclevar_contract_settings, KIND, name) for _ in range(2))
    assert once.fingerprint() == again.fingerprint()
