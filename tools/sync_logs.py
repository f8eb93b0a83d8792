"""Uploads the log's rows that were not uploaded yet: `edge-agent logs sync`, see docs/sync.md.

python tools/sync_logs.py [--config FILE] [--to URL] [--dry-run] [--max-kb-s N] [--give-up-s N] [--json]
"""

import sys

from edge_agent.cli import main

if __name__ == "__main__":
    sys.exit(main(["logs", "sync", *sys.argv[1:]]))
