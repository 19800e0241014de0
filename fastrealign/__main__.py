"""`python -m fastrealign` is the `fastrealign` command."""

import sys

from fastrealign.cli import main

sys.exit(main())
