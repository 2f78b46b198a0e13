"""`python -m benchmarks.translation`."""

import sys

from benchmarks.translation.cli import main

sys.exit(main())
