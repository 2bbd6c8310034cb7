"""Weights on disk: checkpoints, name tables, published and shipped files."""
