"""`python -m nnaccel` is `nnaccel`."""

import sys

from nnaccel.cli.main import main

sys.exit(main())
