"""`python -m benchmarks.rolling`."""

import signal
import sys

from benchmarks.rolling.cli import main

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
sys.exit(main())
