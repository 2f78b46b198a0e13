"""`python -m benchmarks.fairness`."""

import sys

from benchmarks.fairness.cli import main

sys.exit(main())
