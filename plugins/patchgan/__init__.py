"""The patch discriminator: small, from scratch, needs no download."""
