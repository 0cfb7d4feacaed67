"""`python -m authz`."""

from authz.cli import main

main()
