"""Who trains the points of a sweep: coordinator, claims, workers and launchers."""
