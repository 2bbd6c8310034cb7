"""Configuration classes, files and overrides."""
