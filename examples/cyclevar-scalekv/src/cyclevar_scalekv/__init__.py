"""A key-value cache of a tenth of its size: ScaleKV (arXiv 2505.19602)."""
