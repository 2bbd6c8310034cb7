"""Losses of trainings."""
