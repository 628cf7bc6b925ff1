"""`python -m nnaccel` is `nnaccel`."""

import sys

from nnaccel.cli import main

sys.exit(main())
