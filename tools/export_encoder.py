"""Writes the int8 ONNX encoder of a router from a sentence-transformers directory.

tools/export_encoder.py DIRECTORY   (config.json, model.safetensors, tokenizer.json of all-MiniLM-L6-v2)
"""

import argparse
import json
import sys
from pathlib import Path

from edge_agent.training.encoder_export import export_encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="sentence-transformers directory of a BERT with mean pooling")
    parser.add_argument("--output", type=Path, default=Path("router_models"), help="where encoders/<name>-<sha8> goes")
    parser.add_argument("--name", default="all-MiniLM-L6-v2")
    arguments = parser.parse_args()
    directory = export_encoder(arguments.source, arguments.output / "encoders", arguments.name)
    print(f"{directory}\n{json.dumps(json.loads((directory / 'encoder.json').read_text())['parity'])}")
    print("Next: tools/train_router.py")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"export_encoder: {error}")
