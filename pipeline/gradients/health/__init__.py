"""Whether a gradmap can be trusted: its flags, and what each is decided by."""

from typing import TYPE_CHECKING

from pipeline.lazy_names import names_of

if TYPE_CHECKING:
    from pipeline.gradients.health.assessment import assess
    from pipeline.gradients.health.flags import FLAGS

__all__ = ["FLAGS", "assess"]

__getattr__ = names_of(__name__, {"flags": ("FLAGS",), "assessment": ("assess",)})
