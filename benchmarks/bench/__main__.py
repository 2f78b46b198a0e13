"""`python -m benchmarks.bench` is the command `pointsman bench`."""

import sys

from benchmarks.bench.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
