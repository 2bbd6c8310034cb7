"""Models: built, stored, listed."""
