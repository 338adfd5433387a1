"""Dynamic inference for video recognition: easy videos leave early, and the saving is executed."""

__version__ = "0.1.0"
