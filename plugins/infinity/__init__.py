"""The Infinity family (arXiv 2412.04431)."""
