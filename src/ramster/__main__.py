"""`python -m ramster` is `ramster`."""

import sys

from ramster.cli.main import main

sys.exit(main())
