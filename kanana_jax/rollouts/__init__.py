"""What a model learns from by solving: problems whose answers and traces can be checked."""
