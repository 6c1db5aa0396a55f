"""export: integer networks in the languages of others. C99 here; imports no torch."""

from bitwright.export.c import CSource, to_c

__all__ = ["CSource", "to_c"]
