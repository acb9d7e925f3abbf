"""`python -m gpuroi` is `gpuroi`."""

from __future__ import annotations

import sys

from gpuroi.cli import main

if __name__ == "__main__":
    sys.exit(main())
