"""A lab's module that imports what is not installed."""

import a_package_nobody_has  # noqa: F401
