"""The command line, as ``python -m ecgnb``."""

from ecgnb.cli import main

if __name__ == "__main__":
    main()
