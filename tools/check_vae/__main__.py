"""Measure what each VAE keeps of held-out images, texture and class included, and recommend one."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import asdict

from config.errors import UserError
from config.load import load_config
from config.paths import as_path, expand_path
from config.schema import AutoencoderParams, DatasetParams
from dataset.storage import write_json
from tools.check_vae.round_trip import RULE, VaeMeasurement, choose, format_table
from tools.check_vae.trial import VaeTrial
from tools.runtime.command import add_config, run_command
from tools.runtime.machine import choose_device
from tools.runtime.stages import Stage, as_options, our_command, run_stages


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.check_vae", description=__doc__)
    add_config(parser, "YAML config: the images, the judge, the weights of LPIPS")
    parser.add_argument("--vae", type=expand_path, action="append", default=[], metavar="VAE",
                        help="a diffusers autoencoder, folder or hub id, repeatable; default autoencoder_params.pretrained")
    parser.add_argument("--fine-tune", type=float, metavar="MINUTES",
                        help="fine-tune the recommended one for so long with train_vae, and measure again")
    parser.add_argument("--output", type=as_path, metavar="DIR", help="where vae.json and a fine-tuned VAE go")
    arguments = parser.parse_args(argv)
    if arguments.fine_tune is not None and (arguments.output is None or arguments.fine_tune <= 0):
        raise UserError("--fine-tune: expected minutes above 0 and --output, a folder for the fine-tuned VAE; give both")
    config = load_config(arguments.config, arguments.set)
    sections = config.dataset_params, config.autoencoder_params
    trial = VaeTrial(config, device=choose_device())
    measured = [trial.measure(folder) for folder in arguments.vae or [config.autoencoder_params.pretrained]]
    print(f"{trial.num_images} {trial.split} images; octaves: power of the round trip over that of the images")
    print(format_table(measured))
    real = trial.measure_training_images()
    if real is not None:
        print(f"as many training images in place of round trips: FD {real.frechet_distance:.1f}, precision "
              f"{real.precision:.2f}, recall {real.recall:.2f}")
    best = choose(measured)
    verdict = _describe_choice(best, *sections)
    print("\n".join([verdict, *(f"note: {note}" for note in trial.notes)]))
    if arguments.fine_tune is not None:
        tuned = arguments.output / "fine_tuned"
        words = as_options([*arguments.set, "autoencoder_params.training.fine_tune=true",
                           f"autoencoder_params.training.output={tuned}",
                           f"autoencoder_params.training.max_minutes={arguments.fine_tune}", *_name_keys(best, *sections)])
        run_stages([Stage("fine-tuning", our_command("tools.train_vae", "--config", arguments.config, *words))])
        measured.append(trial.measure(str(tuned)))
        print(format_table([best, measured[-1]]))
        verdict = _describe_choice(choose(measured), *sections)
        print(verdict)
    elif best.problems:
        training = config.autoencoder_params.training
        planned = training.fine_tune and training.output != best.name  # into a folder that is not the VAE itself
        words = as_options([*arguments.set, *_name_keys(best, *sections), "autoencoder_params.training.fine_tune=true",
                           f"autoencoder_params.training.output={training.output}{'' if planned else '_tuned'}"])
        print("what fine-tuning gains is measured with --fine-tune MINUTES --output DIR, or by hand with "
              + shlex.join(["python", "-m", "tools.train_vae", "--config", arguments.config, *words]))
    if arguments.output is not None:
        write_json(arguments.output / "vae.json", {
            "schema": 1, "num_images": trial.num_images, "split": trial.split, "rule": RULE, "verdict": verdict,
            "notes": list(trial.notes), "vaes": [vae.to_json() for vae in measured],
            "training_images": None if real is None else asdict(real)})
        print(f"written to {arguments.output}: vae.json")


def _describe_choice(best: VaeMeasurement, data: DatasetParams, autoencoder: AutoencoderParams) -> str:
    if best.problems:
        return f"no VAE is good enough; the least bad is {best.name}"
    unread = "" if best.auc_real is not None else "; whether it keeps the class was not read"
    shape = "".join(f", {override.replace('=', ': ', 1)}" for override in _name_keys(best, data, autoencoder)
                    if not override.startswith("autoencoder_params.pretrained="))
    return f"recommended: autoencoder_params.pretrained: {best.name}{shape}{unread}"


def _name_keys(vae: VaeMeasurement, data: DatasetParams, autoencoder: AutoencoderParams) -> list[str]:
    """Overrides that put this VAE and the shape of its latents in place of the config's, where they differ."""
    assert vae.cost is not None
    channels, side, _ = vae.cost.latent_shape
    wanted = {"dataset_params.z_channels": (channels, data.z_channels),
              "dataset_params.latent_size": (side, data.latent_size)}
    if vae.name != autoencoder.pretrained:
        wanted = {"autoencoder_params.pretrained": (vae.name, autoencoder.pretrained),
                  "autoencoder_params.subfolder": ("null", autoencoder.subfolder or "null"), **wanted}
    return [f"{key}={value}" for key, (value, found) in wanted.items() if value != found]


if __name__ == "__main__":
    run_command(main)
