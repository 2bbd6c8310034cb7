"""Hooks, registry and manager of plugins."""
