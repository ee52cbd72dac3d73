"""One module for each command: parse, build a config, call, print. Nothing heavy is imported before a command runs."""
