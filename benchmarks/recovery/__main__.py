"""`python -m benchmarks.recovery`."""

import sys

from benchmarks.recovery.cli import main

sys.exit(main())
