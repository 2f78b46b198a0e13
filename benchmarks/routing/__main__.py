"""`python -m benchmarks.routing`."""

import sys

from benchmarks.routing.cli import main

sys.exit(main())
