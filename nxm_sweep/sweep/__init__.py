"""Sweeps: planning, studies and execution."""
