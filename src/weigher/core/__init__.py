"""Pure functions every method stands on: no files, no training loops, no printing."""
