"""How long translating, generating and training take on this machine, and how far that is from what it can do."""
