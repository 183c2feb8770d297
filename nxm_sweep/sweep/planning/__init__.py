"""Cells and points of a sweep, and their cost."""
