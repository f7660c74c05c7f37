"""The command line: a thin layer, one module for each verb with its `Options` and `run`."""
