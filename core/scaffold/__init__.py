"""The packages that ``cyclevar plugin new`` writes, a template a file: ``templates/common`` and ``templates/KIND``."""
