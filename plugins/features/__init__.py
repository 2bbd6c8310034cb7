"""A discriminator over frozen features: quick to learn, needs no download."""
