"""`python -m benchmarks.slots`."""

import sys

from benchmarks.slots.cli import main

sys.exit(main())
