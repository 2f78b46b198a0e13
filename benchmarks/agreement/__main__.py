"""`python -m benchmarks.agreement`."""

import sys

from benchmarks.agreement.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
