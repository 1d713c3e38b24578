"""`python -m exnihilo` is `exnihilo`."""

import sys

from exnihilo.cli import main

sys.exit(main())
