"""What a model learns from by solving: tasks whose answers, traces and tool calls are checked."""
