"""Every benchmark, one after another: python -m benchmarks"""

import subprocess
import sys

PARTS = [
    "benchmarks.router_latency",
    "benchmarks.device",
    "benchmarks.sync",
    "benchmarks.entailment",
    "benchmarks.sampling_speed",
]


def main() -> int:
    return max(subprocess.run([sys.executable, "-m", part], check=False).returncode for part in PARTS)


if __name__ == "__main__":
    sys.exit(main())
