"""StableAnimator: one photo of a person and a sequence of poses become a video of that person."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from animation.pipeline import AnimationPipeline

__all__ = ["AnimationPipeline"]


def __getattr__(name: str) -> Any:
    """Import the pipeline, and torch with it, when it is asked for."""
    if name != "AnimationPipeline":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from animation.pipeline import AnimationPipeline

    return AnimationPipeline
