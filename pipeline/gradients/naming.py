"""What a model is called in a message."""


def name_of(model: object) -> str:
    """The class of a model; of one that only stands around another, the class that its author knows.

    Such a model says so in an attribute ``stands_for``.
    """
    return str(getattr(model, "stands_for", type(model).__name__))
