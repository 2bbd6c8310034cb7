"""Attention to the own scale or the neighbouring one, in windows (HMAR, MVAR)."""
