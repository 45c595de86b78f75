"""What a key does follows from the schema: what a resume may change, what wandb may see, what identities hold."""

from config.schema import _METADATA, EFFECTS, effect_of, names_a_place

# What the hand-kept lists held before keys had effects: recorded runs and studies rely on it.
MAY_CHANGE = (
    "train_params.compile_mode", "train_params.epochs", "train_params.max_steps", "train_params.num_samples",
    "train_params.resume_training", "train_params.checkpoint_interval_steps", "train_params.keep_last_checkpoints",
    "dataset_params.directory_inception_features", "dataset_params.directory_latents", "dataset_params.lpips_path",
    "dataset_params.params.covariate_columns", "dataset_params.params.um_per_px", "dataset_params.params.csv_file",
    "dataset_params.params.root_dir", "dataset_params.params.missing_labels", "autoencoder_params.pretrained",
    "autoencoder_params.subfolder", "autoencoder_params.batch_size", "autoencoder_params.training", "sample_params",
    "gan_params", "evaluation_params", "logging_params", "launch_params",
)
PLACES = ("csv_file", "root_dir", "task_name", "pretrained", "subfolder", "output", "guide_checkpoint", "start_from",
          "text_encoder", "extra")


def test_every_key_has_a_known_effect_and_a_new_one_changes_results_unless_it_says_otherwise() -> None:
    assert {metadata["effect"] for metadata in _METADATA.values()} == set(EFFECTS)
    assert effect_of("train_params.ldm_lr") == effect_of("train_params.no_such_key") == "result"


def test_a_resume_may_change_what_it_could_before() -> None:
    assert {key for key in MAY_CHANGE if effect_of(key) == "result"} == set()


def test_keys_of_the_training_stay_fixed_within_a_run() -> None:
    fixed = {key for key in _METADATA if not key.startswith(MAY_CHANGE) and effect_of(key) != "result"}
    assert fixed == {"train_params.task_name", "train_params.start_from", "unet_params.pretrained",  # may have moved
                     "unet_params.text_encoder", "unet_params.gradient_checkpointing"}


def test_no_key_that_may_hold_a_path_reaches_wandb() -> None:
    for key in _METADATA:
        name = key.rpartition(".")[2]
        expected = name in PLACES or name.endswith("_path") or name.startswith("directory_")
        assert names_a_place(key) == expected, key


def test_identities_of_studies_leave_out_one_section() -> None:
    """keys_of_results is hashed by studies and sweeps: another section with this effect would change their hashes."""
    assert [key for key in _METADATA if "." not in key and effect_of(key) == "speed"] == ["launch_params"]
