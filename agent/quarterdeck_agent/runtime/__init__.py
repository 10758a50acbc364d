"""Running the model in a child process and feeding it."""
