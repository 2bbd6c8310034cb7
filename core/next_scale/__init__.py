"""The flow: pyramid, translation, generation, editing."""
