"""One module per experiment: `experiment()` gives its configuration, and `run` runs it."""
