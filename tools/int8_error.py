"""What int8 changes in the translations of the translators that ship, on the built-in test pictures.

python tools/int8_error.py [TRANSLATOR...]
"""

from __future__ import annotations

import sys

import torch

from cyclevar import Translator
from cyclevar.core.data.batches import stack
from cyclevar.core.data.datasets import open_dataset
from cyclevar.core.weights.shipped import find_translator, shipped_translators

PICTURES = 32


def main() -> None:
    pictures = open_dataset("emoji").test
    assert pictures is not None
    print("| translator | mean difference | 99.9 % below | largest | translation against source, mean |")
    print("|---|---|---|---|---|")
    for name in sys.argv[1:] or shipped_translators():
        translator = Translator.load(find_translator(name))
        if not translator.model.has_settings:
            continue
        images = stack(pictures[0], translator.model.image_size[0], PICTURES)
        plain = translator(images, translator.default_target)
        difference = (translator.for_inference(int8=True)(images, translator.default_target) - plain).abs().flatten()
        high = torch.quantile(difference[:: max(1, len(difference) // 10**6)], 0.999)
        change = (plain - images).abs().mean()
        print(f"| {name} | {difference.mean():.4f} | {high:.3f} | {difference.max():.3f} | {change:.3f} |")


if __name__ == "__main__":
    main()
