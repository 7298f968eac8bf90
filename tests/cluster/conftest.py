"""Settings of the clusters that tests start."""

import os

os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # Ray's 30 s are too few on a machine with much to do
