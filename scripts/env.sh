# Source this in bash to use the workspace: `. scripts/env.sh`. ROS 2 (installation or wheels), the Python
# environment, the built packages and the DDS profile for images. Settings made before are kept.
_workspace="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ ! -f "$_workspace/install/setup.bash" ]; then
  echo "env.sh: the workspace is not built yet: run 'make' in $_workspace" >&2
  unset _workspace
  return 1
fi
# The generated setup files read variables that may be unset.
case $- in *u*) _nounset=1; set +u ;; *) _nounset= ;; esac
_ros="$(python3 "$_workspace/scripts/setup_workspace.py" --where)"
if [ "$_ros" = wheels ]; then
  . "$_workspace/.venv/setup.bash"
else
  . "$_ros/setup.bash"
  # The environment's own packages come before the installation's.
  export PYTHONPATH="$(echo "$_workspace"/.venv/lib/python3.*/site-packages)${PYTHONPATH:+:$PYTHONPATH}"
fi
export PATH="$_workspace/.venv/bin:$PATH"
. "$_workspace/install/setup.bash"
# run_launch, doctor, replay, …: for who has no ros2 command.
export PATH="$PATH:$_workspace/install/dual_nav_bringup/lib/dual_nav_bringup"
# Camera images do not fit the shared-memory segments Fast DDS has by default.
case "${ROS_DISTRO:-}" in humble | jazzy) _profiles=FASTRTPS_DEFAULT_PROFILES_FILE ;; *) _profiles=FASTDDS_DEFAULT_PROFILES_FILE ;; esac
[ -n "${!_profiles:-}" ] || export "$_profiles=$_workspace/launch/config/fastdds.xml"
: "${RMW_IMPLEMENTATION:=rmw_fastrtps_cpp}"
export RMW_IMPLEMENTATION
# Humble knows this variable only; later distributions warn about it.
if [ "${ROS_DISTRO:-}" = humble ] && [ "${ROS_AUTOMATIC_DISCOVERY_RANGE:-}" = LOCALHOST ]; then
  export ROS_LOCALHOST_ONLY=1
fi
[ -z "$_nounset" ] || set -u
unset _workspace _ros _nounset _profiles
