"""Write a proposal and a set-up as commented YAML that `load_config` accepts."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from config.schema import INCEPTION_FILE
from tools.init.proposal import Images, Proposal
from tools.init.setup import Setup

_WIDTH = 118


def draft_config(proposal: Proposal, setup: Setup, *, name: str) -> str:
    """The text of config/<name>.yaml."""
    table, images = proposal.columns, proposal.images
    lines = ["# Proposed by python -m tools.init from the sheet and the images. To decide before the first training:"]
    for number, decision in enumerate(proposal.decisions, start=1):
        lines += textwrap.wrap(decision, _WIDTH, initial_indent=f"# {number}. ", subsequent_indent="#    ")
    lines += ["", "dataset_params:", "  params:"]
    lines += _key("csv_file", table.csv_file, 4, "folders name the classes" if table.csv_file is None else "")
    lines += _key("root_dir", proposal.root_dir, 4)
    lines += _key("im_channels", 1 if images.gray else 3, 4, _describe_channels(images))
    lines += _key("image_size", setup.image_size, 4, f"the images have {images.width} x {images.height} px")
    lines += _key("fit", "pad", 4)
    lines += _key("um_per_px", prepared_um_per_px(images, setup.image_size), 4, _describe_scale(images))
    if table.csv_file is not None:
        lines += _key("image_column", table.image_column, 4)
        lines += _key("label_column", table.label_column, 4)
    lines += _key("class_names", list(table.class_names), 4, "label 0, 1, ...")
    lines += _comment_out_missing_labels(table.missing_labels)
    loud = "NO PATIENTS KNOWN: see 1 above" if table.group_column is None else "a group is never split"
    lines += _key("group_column", table.group_column, 4, loud)
    if table.split_column is not None:
        lines += _key("split_column", table.split_column, 4)
    if proposal.split_fractions is not None:
        lines += _key("split_fractions", proposal.split_fractions, 4, "drawn by group")
    if proposal.val_from_train:
        lines += _key("val_from_train", proposal.val_from_train, 4, "the table has no validation rows")
    if table.covariate_columns:
        lines += _key("covariate_columns", list(table.covariate_columns), 4, "kept for checks, not used by the network")
    lines += _comment_out_conditions(table.conditions)
    lines += _key("condition_types", list(setup.condition_types), 2)
    lines += _key("z_channels", setup.z_channels, 2)
    lines += _key("latent_size", setup.latent_size, 2)
    lines += _key("directory_inception_features", f"runs/{name}_features", 2)
    lines += _key("directory_latents", f"runs/{name}_latents", 2)
    lines += _key("symmetries", list(proposal.symmetries), 2, proposal.symmetries_from)
    lines += ["", f"# The set-up is for {setup.why}."]
    for section, keys in setup.sections.items():
        extra: dict[str, Any] = {}
        if section == "train_params":
            extra = {"task_name": f"runs/{name}"}
            extra |= {} if proposal.has_val else {"selection_metric": "last"}
        lines += [f"{section}:"]
        for key, value in {**extra, **keys}.items():
            lines += _key(key, value, 2, _COMMENTS.get(f"{section}.{key}", ""))
        lines.append("")
    lines += ["evaluation_params:", *_key("encoders", ["classifier", "inception"], 2, "untrained ones are always added")]
    lines += _key("allow_download", "auto", 2, "weights for FID, KID and LPIPS, once: see above")
    lines += [f"  # inception_path: weights/{INCEPTION_FILE}"]
    if not any(split == "test" for split in table.splits) and "test" not in (proposal.split_fractions or {}):
        lines += _key("real_split", "val", 2, "there is no test split")
    lines += _key("classifier_path", f"runs/{name}_encoder", 2) + _key("judge_path", f"runs/{name}_judge", 2)
    lines += ["", "gan_params:", *_key("output", f"runs/{name}_gan", 2)]
    return "\n".join(lines) + "\n"


_COMMENTS = {
    "autoencoder_params.pretrained": "a local folder, or a hub id",
    "train_params.gradient_accumulation_steps": "micro-steps of a batch, so that it fits",
    "train_params.mixed_precision": "GPUs of 2020 and later",
    "sample_params.num_images": "as many as there are held-out images, or a few more",
}


def _comment_out_missing_labels(missing_labels: Mapping[str, Sequence[int]]) -> list[str]:
    """The commented line that leaves out rows without a label; the user switches it on."""
    if not missing_labels:
        return []
    words: dict[str, str] = {}
    for word in missing_labels:
        words.setdefault(word.casefold(), word or "blank")
    number = sum(map(len, missing_labels.values()))
    comment = f"leaves {number} rows without a label out"
    return [f"    # {line}" for line in _key("missing_labels", list(words.values()), 0, comment)]


def _comment_out_conditions(conditions: Mapping[str, Sequence[str]]) -> list[str]:
    """The commented block that makes columns inputs of the network; the user switches it on."""
    if not conditions:
        return []
    lines = [line for name, levels in conditions.items()
             for line in _key(yaml.safe_dump(name, allow_unicode=True, width=float("inf")).splitlines()[0],
                              {"levels": list(levels), "kind": "ordinal"}, 2)]
    return ["    # More inputs of the network; to use them, remove the # and the space after it:",
            "    # conditions:", *(f"    # {line}" for line in lines)]


def prepared_um_per_px(images: Images, image_size: int) -> float | None:
    """Micrometres per pixel after an image is padded to a square of `image_size`."""
    if images.um_per_px is None or images.num_sizes > 1:
        return None
    return float(f"{images.um_per_px * max(images.width, images.height) / image_size:.6g}")


def _describe_channels(images: Images) -> str:
    looked = f"of {images.num_opened} images opened"
    if not images.gray:
        return f"colour, {images.bits} bits"
    return f"gray{' stored as RGB' if images.stored_as_rgb else ''}, {images.bits} bits ({looked})"


def _describe_scale(images: Images) -> str:
    if images.um_per_px is None:
        return "not known"
    stored = f"{images.um_per_px:.6g} in the files"
    return f"{stored}, but several sizes" if images.num_sizes > 1 else stored


def _key(name: str, value: Any, indent: int, comment: str = "") -> list[str]:
    """`name: value` with a comment; nested sections below it."""
    head = f"{' ' * indent}{name}:"
    if isinstance(value, dict) and name == "training":
        return [head, *(line for key, item in value.items() for line in _key(key, item, indent + 2))]
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False)
    line = f"{head} {text.removesuffix('...' + chr(10)).strip()}"
    return [f"{line:<46}  # {_one_line(comment)}" if comment else line]


def _one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)
