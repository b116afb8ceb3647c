"""Shared by all tests: these machines are slow and shared, so hypothesis has no deadline."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("zoo", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zoo")
