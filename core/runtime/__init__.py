"""What surrounds a model: device, machine, memory, files, random numbers."""
