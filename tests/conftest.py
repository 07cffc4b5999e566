"""Hypothesis draws new examples at a developer's desk, and the same ones at each run in CI: a submission is not judged by luck."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, database=None)
if os.environ.get("CI"):
    settings.load_profile("ci")
