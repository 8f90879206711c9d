"""`python -m tasks` is the command `gradmap` in a checkout, where only the dependencies need to be installed."""

import os

from tasks.importing import import_ours, put_last

if __name__ == "__main__":
    import_ours()
    put_last([os.getcwd()])  # before anything else is imported, which this folder may have a file of the same name for
    from tasks.cli import main

    raise SystemExit(main())
