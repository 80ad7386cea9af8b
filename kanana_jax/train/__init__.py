"""The train step, its optimizers and its loop; knows no corpus, no folder layout, no report."""
