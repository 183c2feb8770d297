"""The cells and points of a sweep, and what they cost."""
