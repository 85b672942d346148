#!/usr/bin/env bash
# Style, package metadata, `colcon test`, `colcon test-result` and a summary. Called by `make test` with the workspace
# sourced; arguments are package names (default: all).
set -u
cd "$(dirname "$0")/.."
status=0

echo "== style"
ruff check . && ruff format --check . || status=1
echo "== package metadata"
python scripts/check_packages.py || status=1

echo "== colcon test"
rm -rf build/*/pytest.xml build/*/Testing
select=()
if [ $# -gt 0 ]; then select=(--packages-select "$@"); fi
# One package after the other: system tests measure time, and two would share the cores.
python -m colcon --log-base log test --base-paths src launch training --executor sequential \
  --event-handlers console_direct+ console_start_end- --return-code-on-test-failure "${select[@]}" \
  --pytest-args -rs --durations=5 --color=no || status=1
python -m colcon test-result --test-result-base build || status=1
python scripts/test_summary.py || status=1
exit $status
