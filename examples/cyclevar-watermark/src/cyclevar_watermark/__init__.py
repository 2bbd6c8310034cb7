"""A watermark in the codes that a model draws, and its detection."""
