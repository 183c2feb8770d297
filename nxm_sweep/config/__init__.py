"""``conf/`` and the command line as validated settings."""
