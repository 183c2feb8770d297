"""One trial: data, methods, trainer."""
