"""The program ``ecgnb``, also as ``python -m ecgnb``."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it with one sentence also while it is still starting."""
    try:
        from ecgnb import cli

        cli.main()
    except KeyboardInterrupt:
        print("ecgnb: stopped; what is finished is kept, run again to go on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
