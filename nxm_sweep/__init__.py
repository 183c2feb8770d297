"""Sweep N:M sparsity on GLUE: ADMM, ASP, unstructured ADMM and dense fine-tuning under matched budgets."""

__version__ = "0.1.0"
