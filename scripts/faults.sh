#!/usr/bin/env bash
# Makes each system call of our programs fail, with each error of its manual page, and checks that
# nothing is lost, nothing hangs or spins, and each failure is reported.
#
#   scripts/faults.sh [OPTIONS]           --help lists them
#
# Exit codes: 0 no new fault, 1 a fault was found, 2 wrong use, 3 skipped: no strace or ptrace(2).
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
exec env PYTHONDONTWRITEBYTECODE=1 python3 "$top/scripts/faults" "$@"
