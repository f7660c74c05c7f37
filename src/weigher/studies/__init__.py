"""One real experiment per method: a method against the baseline it is said to beat (``weigher study NAME``)."""
