"""Training tasks: translator, tokenizer, backbone."""
