"""A lab's module that fails when it is imported."""

raise RuntimeError("the GPU of this lab is on fire")
