"""The paper's discriminator: heads on a frozen CLIP image tower."""
