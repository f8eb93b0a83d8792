"""Installs, switches, rolls back, packs and signs router bundles: `edge-agent router`, see docs/publishing.md.

python tools/publish_router.py {list,install,use,rollback,remove,pack,sign,keygen} [--root DIR] [--reload] [--json]
"""

import sys

from edge_agent.cli import main

if __name__ == "__main__":
    sys.exit(main(["router", *sys.argv[1:]]))
