"""Rearrange a model so that it runs faster."""
