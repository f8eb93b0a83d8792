"""Writes config.yaml from the settings' dataclasses: python tools/write_config.py > config.yaml"""

from dataclasses import fields

import yaml

from edge_agent.config import SECTIONS, Config, variable_of

HEAD = f"""\
# Settings of edge-agent: every key, with its default. Flags and environment variables go before this file;
# {variable_of("cloud", "base_url")} sets cloud.base_url, and so on for every key.
#
# To try the cloud route without an account: run `make cloud-standin` in another shell, set under `cloud:`
#   base_url: http://127.0.0.1:8643/v1
#   model: local
# and start the daemon with `EDGE_AGENT_CLOUD_API_KEY=stand-in make serve`.
"""


def main() -> None:
    print(HEAD, end="")
    config = Config()
    for section in fields(config):
        if section.name in SECTIONS:
            print(f"\n{section.name}: # {section.metadata['comment']}")
            for key in fields(getattr(config, section.name)):
                value = yaml.safe_dump(getattr(getattr(config, section.name), key.name)).split("\n")[0]
                print(f"  # {key.metadata['comment']}\n  {key.name}: {value}")


if __name__ == "__main__":
    main()
