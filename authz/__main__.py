"""`python -m authz`, and the command `authz`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Ctrl-C ends it without a traceback, also while its modules are still being loaded."""
    try:
        from authz.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("\nauthz: stopped\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
