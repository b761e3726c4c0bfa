"""`python -m server` is `sluiceway`."""

import sys

from server.cli import main

sys.exit(main())
