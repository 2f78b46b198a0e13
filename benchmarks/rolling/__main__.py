"""`python -m benchmarks.rolling`."""

import sys

from benchmarks.rolling.cli import main

sys.exit(main())
