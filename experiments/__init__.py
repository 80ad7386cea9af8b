"""One module per experiment, each with a function `experiment()` that returns its configuration."""
