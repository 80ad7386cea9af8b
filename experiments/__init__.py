"""One module per experiment, each with `experiment()`, its configuration, and `run`, which runs it."""
