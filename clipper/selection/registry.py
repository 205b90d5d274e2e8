"""Selection policies by name."""

from __future__ import annotations

from clipper.errors import InvalidInput
from clipper.records import PolicySettings
from clipper.selection.policy import SelectionPolicy
from clipper.selection.static import Static
from clipper.values import check_name

NAMES = ("static",)


def make_policy(settings: PolicySettings) -> SelectionPolicy:
    """The policy that the settings name, with its options checked."""
    if settings.name != "static":
        raise InvalidInput(
            f"policy must be one of {', '.join(NAMES)}, got {settings.name!r:.60}"
        )
    unknown = set(settings.options) - {"model"}
    if unknown:
        raise InvalidInput(f"policy static has no option {min(unknown)!r:.60}")
    model = settings.options.get("model")
    return Static(None if model is None else check_name("the policy's model", model))
