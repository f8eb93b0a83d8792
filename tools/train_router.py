"""Trains a router's head on graded answers and writes router_models/<version>.

The data folder holds entailment/answer_equivalence.jsonl and smart_home/commands.csv; see docs/routers.md.
"""

import argparse
import os
import time
from pathlib import Path

from edge_agent.config import xdg_dir
from edge_agent.training import label_sources as sources
from edge_agent.training.router_export import export_bundle, load_encoder, publish
from edge_agent.training.router_training import Settings, features_of, train_router


def main() -> None:
    arguments = parse()
    pair = tuple(arguments.answer_pair.split(":"))
    weak, strong = arguments.home_weak.split(","), arguments.home_strong.split(",")
    labels = sources.read_answer_equivalence(arguments.data / "entailment" / "answer_equivalence.jsonl", pair)
    labels += sources.read_smart_home(arguments.data / "smart_home" / "commands.csv", weak, strong)
    directory = arguments.encoder or only(arguments.output / "encoders")
    encoder = load_encoder(directory)
    features = features_of(encoder, [label.text for label in labels], cache=xdg_dir("cache"), name=directory.name)
    settings = Settings(arguments.seed, arguments.cloud_share, {"smart_home": arguments.home_weight})
    systems = {"answer_pair": pair, "home_weak": weak, "home_strong": strong}
    router = train_router(labels, features, settings, systems=systems)
    rule = f"sends {arguments.cloud_share:.0%} of the calibration questions (weighted by source) to the cloud"
    version = arguments.version or time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    bundle = export_bundle(router, encoder, directory, arguments.output, version=version, rule=rule)
    for kind, parts in router.metrics.items():
        for name, f in parts.items():
            print(
                f"{kind:<16} {name:<12} n {f['n']:>5}  AUROC {f['auroc']:.3f}  APGR {f['apgr']:.3f} {f['apgr_95']}",
                end="",
            )
            print(
                f"  random {f['apgr_random_95']}  over word count {f['apgr_over_words']:+.3f} {f['apgr_over_words_95']}"
            )
    print(f"threshold {router.trained.threshold}: {rule}\n{bundle}")
    print(
        f"{publish(bundle)} -> {version}" if arguments.publish else f"Next: ln -sfn {version} {bundle.parent}/current"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("EDGE_AGENT_DATA", "../shared/data"))
    parser.add_argument(
        "--data", type=Path, default=data, help="data folder; default $EDGE_AGENT_DATA or ../shared/data"
    )
    parser.add_argument("--output", type=Path, default=Path("router_models"))
    parser.add_argument("--encoder", type=Path, help="a directory of OUTPUT/encoders; default the only one there")
    parser.add_argument("--version", help="name of the bundle; default the time")
    parser.add_argument("--publish", action="store_true", help="point OUTPUT/current at the new bundle")
    parser.add_argument("--seed", type=int, default=0, help="decides the splits")
    parser.add_argument("--cloud-share", type=float, default=0.33, help="the threshold sends this share to the cloud")
    parser.add_argument(
        "--answer-pair", default=":".join(sources.ANSWER_PAIR), help="weak:strong of the trivia answers"
    )
    parser.add_argument(
        "--home-weak", default=",".join(sources.HOME_WEAK), help="local models of the smart-home answers"
    )
    parser.add_argument("--home-strong", default=",".join(sources.HOME_STRONG), help="cloud models of them")
    parser.add_argument("--home-weight", type=float, default=4.0, help="weight of a smart-home command; trivia has 1")
    return parser.parse_args()


def only(encoders: Path) -> Path:
    found = [card.parent for card in encoders.glob("*/encoder.json")]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none: make one with tools/export_encoder.py"
        raise SystemExit(f"{encoders}: expected one encoder, or a choice with --encoder; found {names}")
    return found[0]


if __name__ == "__main__":
    main()
