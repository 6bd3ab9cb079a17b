"""`python -m boxflow.cli`: the `boxflow` command where no script of that name is installed."""

import sys

from boxflow.cli import main

sys.exit(main())
