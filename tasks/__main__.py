"""`python -m tasks` is the command `gradmap`, so that a job needs nothing installed but the dependencies."""

from tasks.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
