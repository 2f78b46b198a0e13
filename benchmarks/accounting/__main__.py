"""`python -m benchmarks.accounting`."""

import sys

from benchmarks.accounting.cli import main

sys.exit(main())
