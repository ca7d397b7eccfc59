"""Start the console command by ``python -m pytest_longctx.cli``."""

import sys

from pytest_longctx.cli import main

if __name__ == "__main__":
    sys.exit(main())
