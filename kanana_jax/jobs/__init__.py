"""What can be run: each job is a configuration and a function that runs it in a folder."""
