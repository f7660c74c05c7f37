"""`python -m weigher` does what the command `weigher` does."""

import sys

from weigher.cli.main import main

sys.exit(main())
