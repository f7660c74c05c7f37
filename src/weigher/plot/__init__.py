"""Pictures, one natural picture for each method; they take plain arrays and need the `[plot]` extra."""
