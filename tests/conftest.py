"""Shared by all tests: these machines are slow and shared, so hypothesis has no deadline.

Where CI is set hypothesis draws the same examples every time: an accident of rounding is for people to meet.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "zoo",
    deadline=None,
    max_examples=50,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("zoo")
