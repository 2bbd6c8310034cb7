"""A next-scale model from scratch: quantizer, tokenizer and transformer."""
