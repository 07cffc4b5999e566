"""Hypothesis draws new examples at a developer's desk, and the same ones at each run in CI: a submission is not judged by luck.
Nor is it by the machine: how long an example takes, or its making, says nothing of the broker. HYPOTHESIS_PROFILE=deep tries forty
times as many."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("desk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("desk"), derandomize=True, database=None)
settings.register_profile("deep", settings.get_profile("desk"), max_examples=4000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "desk"))
