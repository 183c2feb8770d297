"""Files of an output directory: records, plans, progress, attempts. Imports no PyTorch, Hydra or Optuna."""
