"""From OptimizerConfig and the model's description of its weights to an optax transformation."""
