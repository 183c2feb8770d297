"""Model loading, sparse training and metrics."""
