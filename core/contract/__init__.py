"""What every registered part promises, as tests that run on whatever is registered.

``pytest --cyclevar-contract[=PLUGIN]`` runs them in a plugin's own repository, ``cyclevar plugin check`` beside other
checks (docs/plugins.md).
"""
