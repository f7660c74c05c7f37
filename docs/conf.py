"""Sphinx settings: MyST Markdown whose examples run, and the furo theme."""

from weigher import __version__

project = "weigher"
author = "The weigher authors"
copyright = "The weigher authors"
release = __version__

extensions = ["myst_nb"]
exclude_patterns = ["_build", "results"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 120

html_theme = "furo"
html_title = "weigher"
