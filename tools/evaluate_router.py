"""Evaluates routers against every alternative; writes docs/evaluation.md, its figures and all numbers.

The data folder holds questions/ and routellm/, see docs/evaluation.md. Each router that is scored on the published sets
is remembered in docs/evaluation/ledger.json.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_agent import text_features
from edge_agent.config import xdg_dir
from edge_agent.errors import RouterError
from edge_agent.router import Encoder, RouterModel
from edge_agent.training import evaluation_run as run
from edge_agent.training import outcomes
from edge_agent.training.candidates import candidates as train
from edge_agent.training.embeddings import features_of
from edge_agent.training.evaluation_ledger import fingerprint
from edge_agent.training.evaluation_page import TITLES
from edge_agent.training.evaluation_report import Router, Settings
from edge_agent.training.training_rows import MIN_EXAMPLES

PARTS, PART_HEAD = (0.125, 0.25, 0.5), "logreg"
"""Shares of the samples, and the head, of the figure of quality against samples."""


def main() -> None:
    chosen = parse()
    if chosen.check:
        if wrong := run.check(chosen.docs):
            sys.exit(f"{chosen.docs / run.PAGE}: {wrong}; write it again with tools/evaluate_router.py")
        print(f"{chosen.docs / run.PAGE} says what {run.NUMBERS} says")
        return
    sets = [] if chosen.only == "own" else outcomes.read_published(chosen.data)
    if chosen.only != "published":
        own = outcomes.read_labels(chosen.labels, chosen.data, split=chosen.split)
        sets += [own, outcomes.without_generated(own)]
    scorers, features = routers(chosen)
    local, device, cloud = (outcomes.Price(*p) for p in (chosen.local_price, chosen.device_price, chosen.cloud_price))
    settings = Settings(chosen.resamples, chosen.seed, local, device, cloud)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    numbers = run.evaluate(sets, scorers, features, chosen.docs, settings, now_utc=now, progress=tell)
    print(table(numbers, {one.name for one in sets}))
    print(f"{numbers['configurations']} routers were ever scored on the published sets")
    print(chosen.docs / run.PAGE)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data, prices = Path(os.environ.get("EDGE_AGENT_DATA", "../shared/data")), Settings()
    add = parser.add_argument
    add("--data", type=Path, default=data, help="data folder; default $EDGE_AGENT_DATA or ../shared/data")
    add("--labels", type=Path, default=Path("label_sets/qwen2.5-coder-0.5b-1.5b"), help="label set of our own pair")
    add("--preferences", type=Path, help="label set of another pair, whose correctness stands for preferences")
    add("--split", default="test", choices=["train", "dev", "test"], help="of the label set; default test")
    add("--bundle", type=Path, default=Path("router_models/current"), help="the shipped router; default %(default)s")
    add("--routers", default="all", choices=["all", "shipped", "none"], help="which trained routers; default all")
    add("--only", choices=["own", "published"], help="some of the sets; what is known of the others stays")
    add("--docs", type=Path, default=Path("docs"), help="where the page and evaluation/ are; default docs")
    add("--check", action="store_true", help="compare the page with the numbers; exit 1 when they differ")
    add("--seed", type=int, default=0, help="of resamples and random routers")
    add("--resamples", type=int, default=1000, help="of the questions, and random routers; default 1000")
    price = {"nargs": 2, "type": float, "metavar": ("READ", "WRITTEN")}
    dollars = "US dollars for a million tokens; default %(default)s"
    add("--local-price", default=(prices.local.read, prices.local.written), help=dollars, **price)
    add("--device-price", default=(prices.device.read, prices.device.written), help=dollars, **price)
    add("--cloud-price", default=(prices.cloud.read, prices.cloud.written), help=dollars, **price)
    return parser.parse_args()


def routers(chosen: argparse.Namespace) -> tuple[list[run.Scorer], Callable[[Sequence[str]], run.Features]]:
    """The routers to score, and what makes features for all of them: the bundle's encoder."""
    if chosen.routers == "none":
        return [], lambda texts: sys.exit("no router reads features")
    model = RouterModel.load(chosen.bundle)
    directory = (model.path / model.card.encoder).resolve()
    encoder = Encoder(directory, inputs=model.card.encoder_inputs, max_tokens=model.card.max_tokens)
    made = {name: model.card.trained_on.get(name, default) for name, default in (("label_source", ""), ("head", ""))}
    n_train = model.card.trained_on.get("n_train", 0)
    known = [encoder.dimension + text_features.NAMES.index(name) for name in model.card.features]
    columns = [*range(encoder.dimension), *known]
    shipped = Router(
        f"shipped ({model.version})", **made, n_train=n_train, sha256=model.card.files["head.onnx"], is_shipped=True
    )
    scorers = [run.Scorer(shipped, lambda features: model.heads(features[:, columns])["score"])]
    if chosen.routers == "all":
        scorers += candidates(chosen, directory.name, encoder.dimension + len(text_features.NAMES))
    return scorers, lambda texts: features_of(encoder, texts, cache=xdg_dir("cache"), name=directory.name)


def candidates(chosen: argparse.Namespace, encoder: str, n_features: int) -> list[run.Scorer]:
    """Every label source with every head on all samples; and one head on parts of them."""
    whole = train(chosen.labels, encoder, preferences=chosen.preferences, seed=chosen.seed)
    made = [(c, c.name, False) for c in whole]
    parts = [round(part * max(c.n_train for c in whole)) for part in PARTS]
    for n in (n for n in parts if n >= MIN_EXAMPLES):
        some = train(chosen.labels, encoder, preferences=chosen.preferences, seed=chosen.seed, n_train=n)
        made += [(c, f"{c.name}, {c.n_train} samples", True) for c in some if c.head == PART_HEAD]
    return [
        run.Scorer(
            Router(name, c.label_source, c.head, c.n_train, fingerprint(c.scores, n_features), is_partial=is_partial),
            c.scores,
        )
        for c, name, is_partial in made
    ]


def tell(line: str) -> None:
    print(line, file=sys.stderr)


def table(numbers: dict, names: set[str]) -> str:
    lines = []
    for one in (one for one in numbers["sets"] if one["name"] in names):
        lines += ["", f"{one['name']}, {one['n']} questions {one['unusable'] or ''}"]
        band = one["random"].get("figures", {})
        rows = [{"name": "random: mean, 95 %", "figures": band}, *one["rows"]] if band else []
        for row in rows:
            figures = (row["figures"][name] for name in ("cpt50", "cpt80", "apgr", "auroc"))
            lines.append(f"  {row['name']:<44}" + "".join(f"{value!s:>30}" for value in figures))
    return "\n".join([f"{'':<46}" + "".join(f"{TITLES[n]:>30}" for n in ("cpt50", "cpt80", "apgr", "auroc")), *lines])


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, LookupError, RouterError) as error:
        told = error.args[0] if isinstance(error, LookupError) and error.args else error  # KeyError quotes its message
        sys.exit(f"evaluate_router: {told}")
