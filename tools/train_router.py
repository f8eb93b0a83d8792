"""Trains a router's head on graded answers and writes router_models/<version>.

The data folder holds entailment/answer_equivalence.jsonl and smart_home/commands.csv; see docs/routers.md.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from edge_agent.config import xdg_dir
from edge_agent.errors import RouterError
from edge_agent.router_store import switch
from edge_agent.training import label_sources as sources
from edge_agent.training.router_export import export_bundle, load_encoder
from edge_agent.training.router_training import Settings, TrainedRouter, features_of, train_router


def main() -> None:
    chosen = parse()
    labels = sources.read_answer_equivalence(
        chosen.data / "entailment" / "answer_equivalence.jsonl", chosen.answer_pair
    )
    labels += sources.read_smart_home(chosen.data / "smart_home" / "commands.csv", chosen.home_weak, chosen.home_strong)
    directory = chosen.encoder or only(chosen.output / "encoders")
    encoder = load_encoder(directory)
    features = features_of(encoder, [label.text for label in labels], cache=xdg_dir("cache"), name=directory.name)
    settings = Settings(chosen.seed, chosen.cloud_share, {"smart_home": chosen.home_weight})
    systems = {name: getattr(chosen, name) for name in ("answer_pair", "home_weak", "home_strong")}
    router = train_router(labels, features, settings, systems=systems)
    rule = f"sends {chosen.cloud_share:.0%} of the calibration questions (weighted by source) to the cloud"
    version = chosen.version or time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    bundle = export_bundle(router, encoder, directory, chosen.output, version=version, rule=rule)
    print(table(router), f"threshold {router.trained.threshold}: {rule}", bundle, sep="\n")
    if chosen.publish:
        print(f"current is {version}, was {switch(chosen.output, version)}")
    else:
        print(f"Next: python tools/publish_router.py use {version} --root {chosen.output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("EDGE_AGENT_DATA", "../shared/data"))
    add = parser.add_argument
    add("--data", type=Path, default=data, help="data folder; default $EDGE_AGENT_DATA or ../shared/data")
    add("--output", type=Path, default=Path("router_models"), help="where encoders/ is and <version>/ goes")
    add("--encoder", type=Path, help="a directory of OUTPUT/encoders; default the only one there")
    add("--version", help="name of the bundle; default the time")
    add("--publish", action="store_true", help="point OUTPUT/current at the new bundle")
    add("--seed", type=int, default=0, help="decides the splits")
    add("--cloud-share", type=share, default=0.33, help="the threshold sends this share to the cloud")
    add("--answer-pair", nargs=2, default=sources.ANSWER_PAIR, metavar=("WEAK", "STRONG"), help="of the trivia answers")
    add("--home-weak", nargs="+", default=sources.HOME_WEAK, metavar="MODEL", help="local models of smart-home answers")
    add("--home-strong", nargs="+", default=sources.HOME_STRONG, metavar="MODEL", help="cloud models of them")
    add("--home-weight", type=float, default=4.0, help="weight of a smart-home command; a trivia question has 1")
    return parser.parse_args()


def share(text: str) -> float:
    if not 0 < (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, found {text}")
    return value


def only(encoders: Path) -> Path:
    found = [card.parent for card in encoders.glob("*/encoder.json")]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none; make one with tools/export_encoder.py"
        raise ValueError(f"{encoders}: expected one encoder, or a choice with --encoder; found {names}")
    return found[0]


def table(router: TrainedRouter) -> str:
    row = "{:<16} {:<12} {:>6}  {:<23}  {:<23}  {:<16}  {:<23}".format
    lines = [row("", "", "n", "AUROC", "APGR", "random APGR", "APGR over word count")]
    for kind, parts in router.metrics.items():
        for name, f in parts.items():
            auroc, apgr, over = (f"{f.get(m)} {f.get(m + '_95')}" for m in ("auroc", "apgr", "apgr_over_words"))
            lines.append(row(kind, name, f["n"], auroc, apgr, str(f.get("apgr_random_95")), over))
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, RouterError) as error:
        sys.exit(f"train_router: {error}")
