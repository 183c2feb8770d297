"""Load a task's rows from the hub, files or a grammar, and tokenise them."""
