"""Attention: plans, kernels, key-value cache."""
