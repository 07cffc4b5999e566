"""Hypothesis draws new examples at a developer's desk, and the same ones at each run in CI: a submission is not judged by luck.
HYPOTHESIS_PROFILE=deep tries forty times as many."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, database=None)
settings.register_profile("deep", max_examples=4000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))
