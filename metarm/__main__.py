"""`python -m metarm`: the `metarm` command."""

import sys

from metarm.commands.main import main

sys.exit(main())
