"""A page to look and listen, and a JSON API under it: `weigher serve MODEL`."""
