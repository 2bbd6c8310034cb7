"""The FlexVAR family (arXiv 2502.20313)."""
