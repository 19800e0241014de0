"""`python -m fastrealign` is the `fastrealign` command."""

import sys

from fastrealign.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
