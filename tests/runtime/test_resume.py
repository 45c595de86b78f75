"""The resume state: it comes back from the newest intact file, and from files that earlier versions wrote."""

from pathlib import Path
from typing import Any

import pytest
import torch

from config.errors import UserError
from models.ema import ExponentialMovingAverage
from tools.runtime.checkpoints import list_resume_checkpoints, read_checkpoint, resume_path, write_checkpoint
from tools.runtime.resume import OtherTraining, ResumeState, Saving


def make(value: float, **fields: Any) -> ResumeState:
    network = torch.nn.Linear(2, 1)
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, value)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return ResumeState({"net": network}, ExponentialMovingAverage(network, 0.9), {"of_net": optimizer}, **fields)


def assert_equal(state: ResumeState, other: ResumeState) -> None:
    (tensors, values), (others, other_values) = state.to_checkpoint(), other.to_checkpoint()
    assert values == other_values and tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_a_state_resumes_from_the_one_before_a_damaged_one_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saving = Saving(tmp_path, "a", key="some.key")
    first = make(3.0, step=1, seconds=2.5)
    first.save(saving)
    kept = resume_path(tmp_path, 1).read_bytes()
    make(5.0, step=2, seconds=5.0).save(saving)
    assert [path.name for path in tmp_path.iterdir()] == ["resume-00000002.safetensors"]
    resume_path(tmp_path, 1).write_bytes(kept)  # as if a kill had come before it was removed
    newest = bytearray(resume_path(tmp_path, 2).read_bytes())
    newest[-3] ^= 1
    resume_path(tmp_path, 2).write_bytes(newest)
    other = make(7.0, seconds=0.0)
    other.resume(saving)
    assert_equal(other, first)
    told = capsys.readouterr()
    assert "resume-00000002" in told.err and told.err.endswith("it is damaged; resuming from the one before\n")
    assert told.out == "resuming at step 1\n"
    make(7.0, seconds=0.0).resume(saving, tell=False)
    assert capsys.readouterr() == ("", "")


def test_another_training_is_refused_with_what_to_do_and_none_at_all_is_a_start(tmp_path: Path) -> None:
    make(3.0, step=1).save(Saving(tmp_path, "a", key="some.key"))
    state = make(5.0)
    with pytest.raises(OtherTraining, match=r"belongs to a training with other settings or images; restore them to resume, "
                                            r"or set another some\.key to start again"):
        state.resume(Saving(tmp_path, "b", key="some.key"))
    state.resume(Saving(tmp_path / "absent", "a", key="some.key"))
    assert_equal(state, make(5.0))
    (path,) = list_resume_checkpoints(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="no intact resume checkpoint is left"):
        state.resume(Saving(tmp_path, "a", key="some.key"))


@pytest.mark.parametrize("optimizer", ["of_net.optimizer", "of_net"])  # of the VAE and the GAN, of the UNet
def test_files_of_version_0_2_are_read(tmp_path: Path, optimizer: str) -> None:
    state, saving = make(3.0, step=4), Saving(tmp_path, "a", key="some.key")
    state.save(saving)
    tensors, values = read_checkpoint(resume_path(tmp_path, 4))
    tensors = {name.replace("of_net.", f"{optimizer}."): tensor for name, tensor in tensors.items()}
    values = {"step": 4, "data_identity": values["identity"], "ema_updates": values["num_updates"]}
    write_checkpoint(resume_path(tmp_path, 4), tensors, values)
    other = make(5.0)
    other.resume(saving)
    assert_equal(other, state)
