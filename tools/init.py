"""Propose a config from a table and a folder of images, and list what a person must decide. Asks and guesses nothing.

    python -m tools.init TABLE IMAGES --output config/my.yaml [--label-column NAME] [--gpu-memory-gb N]

TABLE is one table, a folder with one table for each split, or several tables; without one, IMAGES holds a folder for
each class. The set-up is for this machine, or for a GPU of N GB.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from config.errors import UserError
from config.load import build_config
from dataset.storage import write_text
from tools.inspection.config_draft import draft_config
from tools.inspection.proposal import add_symmetries, propose
from tools.inspection.setup import choose_setup, find_gpu_memory_gb
from tools.inspection.symmetry_sample import measure_sound_rows
from tools.runtime.command import run_command


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.init", description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="*", type=Path, metavar="TABLE", help="table, tables, or a folder with one per split")
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of the images")
    parser.add_argument("--output", type=Path, required=True, metavar="YAML", help="the config to write")
    parser.add_argument("--label-column", metavar="NAME", help="which column has the labels, where that is not clear")
    parser.add_argument("--gpu-memory-gb", type=float, metavar="N", help="propose for a GPU of this memory; 0 for a CPU")
    parser.add_argument("--force", action="store_true", help="write over an existing file")
    arguments = parser.parse_args(argv)
    output: Path = arguments.output
    if output.exists() and not arguments.force:
        raise UserError(f"{output}: exists already; give another --output, or --force to write over it")
    proposal = propose(arguments.table, arguments.images, label_column=arguments.label_column)
    memory = find_gpu_memory_gb() if arguments.gpu_memory_gb is None else arguments.gpu_memory_gb or None
    splits = proposal.columns.splits
    num_test = splits.count("test") or round(len(splits) * (proposal.split_fractions or {}).get("test", 0))
    num_train = splits.count("train") or round(len(splits) * (proposal.split_fractions or {}).get("train", 0))
    setup = choose_setup(side_px=max(proposal.images.width, proposal.images.height), num_train=num_train, num_test=num_test,
                         gpu_memory_gb=memory, name=output.stem)
    draft = yaml.safe_load(draft_config(proposal, setup, name=output.stem))
    config = build_config(draft, source=str(output))  # a config that cannot be loaded is a bug of ours
    proposal = add_symmetries(proposal, measure_sound_rows(config))
    text = draft_config(proposal, setup, name=output.stem)
    write_text(output, text)
    print(f"{output}: {len(splits):,} images, {len(proposal.columns.class_names)} classes, set up for {setup.why}\n")
    print("to decide before the first training:")
    for number, decision in enumerate(proposal.decisions, start=1):
        print(f"  {number}. {decision}")
    print(f"\nnext: python -m tools.check_dataset --config {output}")


if __name__ == "__main__":
    run_command(main)
