"""`python -m benchmarks.scripted`."""

import sys

from benchmarks.scripted.server import main

sys.exit(main())
