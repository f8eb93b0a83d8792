"""Trains a router from label sets and writes router_models/<version>: heads, calibration, threshold, figures.

Without --labels it follows the recipe of the router that ships; see docs/routers.md. Needs no text and no torch.
"""

import argparse
import re
import sys
import time
from pathlib import Path

from edge_agent.errors import EdgeAgentError
from edge_agent.router_card import NAME, read_card
from edge_agent.router_store import switch
from edge_agent.training.router_export import export_bundle, load_encoder
from edge_agent.training.router_heads import HEADS
from edge_agent.training.router_recipe import ENCODER, ENCODER_REASON, RECIPE, Ingredient, read_parts
from edge_agent.training.router_training import Settings, TrainedRouter, train_router
from edge_agent.training.training_rows import LABEL_SOURCES

DEFAULTS = Settings()


def main() -> None:
    chosen = parse()
    version = version_of(chosen.version)
    directory = chosen.encoder or encoder_of(chosen.output)
    recipe = [Ingredient.parse(text) for text in chosen.labels] if chosen.labels else list(RECIPE)
    recipe += [Ingredient.parse(text) for text in chosen.add]
    parts = read_parts(chosen.sets, recipe, directory, progress=tell)
    settings = Settings(chosen.head, chosen.cloud_share, chosen.seed)
    reason = ENCODER_REASON if directory.name == ENCODER else "chosen by hand"
    router = train_router(parts, settings, {"encoder": directory.name, "encoder_reason": reason}, progress=tell)
    rule = f"sends {chosen.cloud_share:.0%} of the questions of {parts[0].name} to the cloud (train and dev)"
    tell("export, and parity with float32 on a thousand texts")
    encoder = load_encoder(directory)
    bundle = export_bundle(router, encoder, directory, chosen.output, version=version, rule=rule)
    print(table(router), f"threshold {router.threshold}: {rule}", bundle, sep="\n")
    if chosen.publish:
        switch(chosen.output, version)
        print(f"{chosen.output / 'current'} -> {version}")
    else:
        print(f"Next: tools/publish_router.py --root {chosen.output} use {version}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    targets = ", ".join(f"'{name}'" for name in LABEL_SOURCES)
    teaches = f"a label set and what it teaches, the device's pair first; repeat for more. Targets: {targets}"
    add("--labels", action="append", metavar="DIR[=TARGET[*WEIGHT]]", help=teaches)
    add("--add", action="append", default=[], metavar="DIR[=...]", help="likewise, besides the recipe's or --labels")
    add("--sets", type=Path, default=Path("label_sets"), help="where the label sets of the recipe are")
    add("--output", type=Path, default=Path("router_models"), help="where encoders/ is and <version>/ goes")
    add("--encoder", type=Path, help="a directory of OUTPUT/encoders; default that of OUTPUT/current")
    add("--head", choices=HEADS, default=DEFAULTS.head, help="of `score`; default %(default)s")
    add("--version", help="name of the bundle; default the time")
    add("--publish", action="store_true", help="point OUTPUT/current at the new bundle")
    add("--seed", type=int, default=0, help="of folds and random starts")
    add("--cloud-share", type=share, default=DEFAULTS.cloud_share, help="the threshold sends this share to the cloud")
    return parser.parse_args()


def version_of(wished: str | None) -> str:
    """The wished name, if a bundle can have it, else the time."""
    if wished is not None and not re.fullmatch(NAME, wished):
        raise ValueError(f"--version: expected letters, digits, . _ + or -, 64 at most, found {wished!r}")
    return wished or time.strftime("%Y%m%d-%H%M%S", time.gmtime())


def share(text: str) -> float:
    if not 0 < (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, found {text}")
    return value


def encoder_of(output: Path) -> Path:
    """The encoder of the current router, else the only one there is."""
    current = output / "current"
    if current.exists():
        return (current / read_card(current).encoder).resolve()
    found = [card.parent for card in (output / "encoders").glob("*/encoder.json")]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none; make one with tools/export_encoder.py"
        raise ValueError(f"{output / 'encoders'}: expected one encoder, or a choice with --encoder; found {names}")
    return found[0]


def table(router: TrainedRouter) -> str:
    row = "{:<30} {:<8} {:>6}  {:<23}  {:<23}  {:<16}  {:<23}".format
    lines = [row("held out", "", "n", "AUROC", "APGR", "random APGR", "APGR over word count")]
    for kind, parts in router.metrics.items():
        for name, f in parts.items() if kind != "acceptable" else ():
            auroc, apgr, over = (f"{f.get(m)} {f.get(m + '_95')}" for m in ("auroc", "apgr", "apgr_over_words"))
            lines.append(row(kind, name, f["n"], auroc, apgr, str(f.get("apgr_random_95")), over))
    return "\n".join([*lines, f"acceptable: {router.metrics['acceptable']}"])


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("train_router: stopped; nothing was written")
    except (OSError, ValueError, EdgeAgentError) as error:
        sys.exit(f"train_router: {error}")
