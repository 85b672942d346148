"""The launch_pytest version of the system test is for ROS installations that have that package."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("launch_pytest") else ["test_system_launch_pytest.py"]
