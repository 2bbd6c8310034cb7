"""The VAR family (arXiv 2404.02905)."""
