"""What is wrong with a specification: every problem, in words that say where it stands and what to do. Pure."""

from serving.validation.application import (
    FAILED_ROLLOUTS,
    KINDS,
    MODEL_CONTROLS,
    RATE_LIMITER_MODES,
    UPDATES,
    spec_problems,
    validate_spec,
)

__all__ = [
    "FAILED_ROLLOUTS",
    "KINDS",
    "MODEL_CONTROLS",
    "RATE_LIMITER_MODES",
    "UPDATES",
    "spec_problems",
    "validate_spec",
]
