"""These tests need a process of their own, in which there is a simulated device: `make test-device`."""

import sys

collect_ignore_glob = ["run.py", "simcuda.py"] if "simguard" in sys.modules else ["*.py"]
