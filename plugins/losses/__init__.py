"""The losses between pictures that come with cyclevar."""
