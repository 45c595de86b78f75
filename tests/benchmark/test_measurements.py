"""Every variant of the benchmark runs at a tiny size and measures what it says; how fast it is proves nothing here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState

import train_ddpm_cond
from config.errors import UserError
from config.load import load_config
from dataset.images import write_png
from models.layers import CrossAttention, SelfAttention
from tools.benchmark import __main__ as benchmark
from tools.benchmark import demo_step, gpu_step, latent_cache, paper_step, processes, reading, rivals, sampling, workers
from tools.benchmark.findings import Findings, Ratio
from tools.benchmark.workers import BenchmarkSetup
from tools.diffusion.estimate import count_step_flops

ROOT = Path(__file__).parents[2]
NETWORK = {"channels": [32, 32], "attention": [False, True], "num_layers": 1, "num_heads": 2, "time_embedding_dim": 32,
           "context_dim": 16, "norm_groups": 8}


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BenchmarkSetup:
    monkeypatch.setattr(SelfAttention, "forward", SelfAttention.forward)  # put back what a variant replaces
    monkeypatch.setattr(CrossAttention, "forward", CrossAttention.forward)
    monkeypatch.chdir(ROOT)
    paths = []
    for name, latent_size, image_size in (("embryo", 8, 64), ("demo", 16, 64)):
        raw = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text(encoding="utf-8"))
        raw["unet_params"] = NETWORK
        raw["dataset_params"]["latent_size"] = latent_size
        raw["dataset_params"]["params"]["image_size"] = image_size
        raw["train_params"]["ldm_batch_size"] = 4
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(raw), encoding="utf-8")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return BenchmarkSetup(str(paths[0]), str(paths[1]), str(tmp_path), quick=True)


def test_the_papers_step(setup: BenchmarkSetup) -> None:
    for prepare in paper_step.VARIANTS.values():
        numbers = prepare(setup)()
        assert numbers["seconds"] > 0 and numbers["parameters"] > 1000 and numbers["flops"] > 1e6
    ours, theirs = (np.load(Path(setup.scratch) / f"paper_step_{name}.npy") for name in ("ours", "materialised"))
    assert SelfAttention.forward is rivals.materialised_self_attention
    assert np.abs(ours).max() > 0.01 and np.abs(ours - theirs).max() < 1e-5


def test_the_demos_step_and_its_parts(setup: BenchmarkSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # put back what the variants change in their own process
    monkeypatch.setattr(train_ddpm_cond, "make_unet", train_ddpm_cond.make_unet)
    demo_step.write_images(Path(setup.scratch), load_config(setup.demo_config).dataset_params.params)
    ours, around, parts, theirs = (prepare(setup)() for prepare in demo_step.VARIANTS.values())
    assert min(ours["seconds"], around["seconds"], theirs["seconds"], theirs["flops"]) > 0
    assert parts["network_seconds"] > 0 and parts["update_seconds"] > 0
    config = load_config(setup.demo_config)
    assert ours["flops"] == count_step_flops(config.dataset_params, config.unet_params, 4)
    logs = [(Path(setup.scratch) / f"demo_step_runs/{name}/2/metrics.jsonl").read_text(encoding="utf-8")
            for name in ("ours", "around")]
    assert logs[0] != logs[1] and all('"step": 24' in log for log in logs)
    assert processes.prepare_training(setup)()["seconds"] > 0


def test_the_step_runs_with_every_kind_of_condition(setup: BenchmarkSetup) -> None:
    for name in ("mhsma64", "phantoms_two_conditions"):
        raw = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text(encoding="utf-8"))
        raw["unet_params"] = NETWORK
        path = Path(setup.scratch) / f"{name}.yaml"
        path.write_text(yaml.safe_dump(raw), encoding="utf-8")
        training = demo_step.Training(load_config(str(path)))
        training.step()
        training.step_network()
        training.update()
        assert training.state.step == 1


def test_a_gpus_step_and_operators_by_their_own_code(setup: BenchmarkSetup) -> None:
    """On a CPU, which runs bf16 as well; without a GPU the subject says that it measured nothing."""
    prepare = gpu_step.VARIANTS["gpu_step/off_1"]
    assert prepare(setup)()["seconds"] > 0
    config = load_config(setup.paper_config)
    operators = gpu_step.find_operators(config.dataset_params, config.unet_params, 2)
    assert {operator.kind for operator in operators} == {"convolution", "linear layer", "attention"}
    shipped = load_config(str(ROOT / "config/embryo.yaml"))  # two fifths of its operations are attention's
    counted = 3 * sum(operator.kind_flops
                      for operator in gpu_step.find_operators(shipped.dataset_params, shipped.unet_params, 1))
    assert counted == pytest.approx(count_step_flops(shipped.dataset_params, shipped.unet_params, 1), rel=1e-6)
    for operator in operators:
        assert gpu_step.measure_operator(operator, torch.device("cpu"), torch.bfloat16) > 0
    assert gpu_step.prepare_matmul(setup)()["flops_per_second"] > 0
    if not torch.cuda.is_available():
        assert gpu_step.measure(setup).lines == ["not measured: no GPU is at hand"]


def test_cached_and_encoded_latents_are_the_same_numbers(setup: BenchmarkSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_cache, "_WIDTHS", (32, 32, 32, 32))
    latent_cache.write_images(Path(setup.scratch), load_config(setup.paper_config).dataset_params)
    cached, encoded = (prepare(setup)() for prepare in latent_cache.VARIANTS.values())
    assert cached["encode_seconds"] > 0 and cached["fixed_seconds"] > 0 and 0 < encoded["step_seconds"] < encoded["seconds"]
    first, second = (np.load(Path(setup.scratch) / f"latent_cache_{name}.npy") for name in ("cached", "encoded"))
    assert np.abs(first).max() > 0.1 and np.abs(first - second).max() < 5e-3


def test_sampling_counts_forward_passes(setup: BenchmarkSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_BATCH", 4)
    for prepare in (sampling.prepare_overlapped, sampling.prepare_in_turn):
        numbers = prepare(setup)()
        assert 0 < numbers["network_seconds"] < numbers["seconds"]
    first, second = (Path(setup.scratch) / f"sampling_{name}" / "images" for name in ("overlapped", "in_turn"))
    assert len(list(first.iterdir())) == 8 and sampling.count_differing(first, second) == 0
    (second / "class0_000003.png").write_bytes(b"")
    assert sampling.count_differing(first, second) == 1


def test_guidance_costs_two_rows_inside_its_interval_and_one_outside(
    setup: BenchmarkSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_FEW", 1)
    numbers = sampling.prepare_passes(setup)()
    assert numbers["guided_rows"] == 2 and numbers["outside_rows"] == 1
    assert min(numbers.values()) > 0


def test_reading_gives_the_same_pixels(setup: BenchmarkSetup) -> None:
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (96, 64, 3), dtype=np.uint8)
        write_png(Path(setup.scratch) / "pictures" / f"{index}.png", pixels)
    for prepare in (reading.prepare_plain, reading.prepare_ahead):
        assert prepare(setup)()["seconds"] > 0
    plain, ahead = (np.load(Path(setup.scratch) / f"reading_{name}.npy") for name in ("plain", "ahead"))
    assert plain.tobytes() == ahead.tobytes() and plain.shape == (3, 3, 512, 512)
    (series,) = reading.measure_linearity(Path(setup.scratch), (40,))
    assert series[0] == 40 and series[1] > 0


def test_what_eight_gpus_would_give_is_said_to_be_assumed(setup: BenchmarkSetup) -> None:
    lines = processes.describe_on_paper(setup, parameters=65e6)
    assert "gradients of 260 MB" in lines[0] and len(lines) == 3
    assert all("assumed" in line for line in lines[1:])


def test_a_worker_answers_and_one_that_fails_is_named(setup: BenchmarkSetup) -> None:
    broken = BenchmarkSetup("missing.yaml", "missing.yaml", setup.scratch, quick=True)
    with pytest.raises(UserError, match=r"demo_step/ours failed: error: .*missing\.yaml"):
        workers.interleave([demo_step.OURS], broken, repeats=1)
    numbers = workers.interleave([demo_step.PARTS], setup, repeats=2)[demo_step.PARTS]
    assert numbers["network_seconds"] > 0 and numbers["peak_bytes"] > 50e6


def test_medians_are_of_each_number() -> None:
    assert workers.medians([{"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 9.0}, {"a": 2.0, "b": 5.0}]) == {"a": 2.0, "b": 5.0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="without a GPU this subject takes no time")
def test_the_command_prints_the_answer_first_and_writes_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.main(["--only", "gpu_step", "--config", str(ROOT / "config/embryo.yaml"), "--json", str(tmp_path / "b.json"),
                    "--picture", str(tmp_path / "b.png")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "only a part was measured, so the time of a whole training is not told"
    assert "  not measured: no GPU is at hand" in lines and (tmp_path / "b.png").is_file()
    written = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert list(written["findings"]) == ["gpu_step"] and written["findings"]["gpu_step"]["ratios"] == []


def test_what_should_be_equal_and_is_not_fails_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Findings("title", ratios=[Ratio("speed", 1.0, 6.0)])
    found.expect_equal("outputs", 1.0, tolerance=1e-5)
    monkeypatch.setattr(benchmark.start_up, "measure", lambda _setup: found)
    with pytest.raises(UserError, match="outputs differ by 1, more than 1e-05"):
        benchmark.main(["--only", "start_up", "--json", str(tmp_path / "b.json"), "--picture", str(tmp_path / "b.png")])
    assert json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["findings"]["start_up"]["unequal"]
