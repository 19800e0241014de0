"""`python -m fastrealign` is the `fastrealign` command."""

import sys

from fastrealign.cli.main import main

sys.exit(main())
