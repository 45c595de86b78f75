"""List the commands by stage with one line each."""

import ast
from pathlib import Path

_STAGES = {
    "labels and images": ("make_phantoms", "import_mhsma"),
    "before training": ("init", "check_dataset", "check_symmetries", "check_confounders", "check_vae"),
    "latents": ("train_vae", "cache_latents"),
    "evidence": ("train_encoder", "evaluate", "compare", "membership_audit", "sweep", "study", "augmentation_study",
                 "learning_curve", "power_study", "reader_study", "morphometry"),
    "baselines": ("train_gan", "sample_gan", "augment_real"),
    "sharing, and machines without a network": ("release", "bundle"),
    "speed": ("benchmark",),
    "after a change of the config": ("document_config",),
}


def main() -> None:
    folder = Path(__file__).parent
    for stage, names in _STAGES.items():
        print(f"{stage}:")
        for name in names:
            [path] = (path for path in (folder / f"{name}.py", folder / name / "__main__.py") if path.is_file())
            module = ast.parse(path.read_text(encoding="utf-8"))
            print(f"  python -m tools.{name:<20}{(ast.get_docstring(module) or '').splitlines()[0]}")
    print("training and sampling:")
    for name in ("train_ddpm_cond.py", "sample_ddpm_class_cond.py"):
        module = ast.parse((folder.parent / name).read_text(encoding="utf-8"))
        print(f"  python {name:<32}{(ast.get_docstring(module) or '').splitlines()[0]}")


if __name__ == "__main__":
    main()
