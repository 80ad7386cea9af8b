"""Tasks that a model learns from by solving them: answers, traces and tool calls are checked."""
