"""`python -m ftkit` is the command `ftkit`."""

from ftkit.cli import main

raise SystemExit(main())
