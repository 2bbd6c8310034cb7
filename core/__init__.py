"""The core of cyclevar."""

from cyclevar.core.runtime.installed import protect_imports

protect_imports()  # before anything imports pydantic or torch
