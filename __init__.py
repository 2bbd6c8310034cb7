"""cyclevar: one-pass unpaired image translation with next-scale autoregressive models."""
