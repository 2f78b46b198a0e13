"""`python -m benchmarks.embeddings`."""

import sys

from benchmarks.embeddings.cli import main

sys.exit(main())
