"""What lies on disk under an output directory: records, plans, progress, attempts. No PyTorch, Hydra or Optuna."""
