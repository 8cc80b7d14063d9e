"""The command line, one file a command: each adds its options and runs. ``main`` puts them together."""
