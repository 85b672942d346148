#!/bin/bash
# ROS 2, the environment, the packages and the DDS profile for whatever the container is told to run.
set -eo pipefail
. /workspace/scripts/env.sh
exec "$@"
