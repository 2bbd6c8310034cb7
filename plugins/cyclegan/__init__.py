"""CycleGAN: two residual networks without tokens, the rival that every user knows."""
