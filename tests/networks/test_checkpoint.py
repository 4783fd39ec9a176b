"""Networks and masks in files: they load as they were saved; a damaged file or one of another network is one line."""

import math
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from hostile import Touch, refusal
from prunus import masks as masking
from prunus.networks import checkpoint
from prunus.run import errors, files

CPU = torch.device("cpu")
MADE_BY = "python stages/pretrain.py --seed 0"


def test_missing_and_damaged_files_name_the_command_that_makes_them(tmp_path):
    path = tmp_path / "network.safetensors"
    with pytest.raises(errors.StageError, match="is missing; `python x.py` makes it"):
        checkpoint.load(path, torch.device("cpu"), "python x.py")
    path.write_bytes(b"not tensors")
    with pytest.raises(errors.StageError, match="is damaged"):
        checkpoint.load(path, torch.device("cpu"), "python x.py")
    with pytest.raises(errors.StageError, match="`python y.py` makes it"):
        files.read_json(tmp_path / "reference_flow.json", "python y.py", {})


def test_a_checkpoint_comes_back_with_its_masks(tmp_path, small_network):
    masks = masking.ones(small_network) | {"0.weight": torch.rand(4, 1, 3, 3) < 0.5}
    masking.apply(small_network, masks)
    checkpoint.save(tmp_path / "a", small_network.state_dict(), masks)
    state, loaded = checkpoint.load(tmp_path / "a", torch.device("cpu"), "")
    assert all(torch.equal(state[name], tensor) for name, tensor in small_network.state_dict().items())
    assert torch.equal(loaded["0.weight"], masks["0.weight"])


# network.safetensors


@pytest.fixture
def saved(tmp_path, small_network):
    """The path of a good network with masks, and its tensors."""
    masks = {name: torch.rand_like(weight) < 0.5 for name, weight in masking.prunable(small_network).items()}
    masking.apply(small_network, masks)
    path = tmp_path / "network.safetensors"
    checkpoint.save(path, small_network.state_dict(), masks)
    return path, load_file(path)


def test_the_good_file_is_read(saved, small_network):
    masks = checkpoint.load_into(small_network, saved[0], CPU, MADE_BY)
    assert list(masks) == ["0.weight", "5.weight", "7.weight"]
    assert all(mask.dtype == torch.bool for mask in masks.values())


def with_one(tensors, name, value, at=0):
    changed = tensors[name].clone()
    changed.view(-1)[at] = value
    return {name: changed}


DAMAGE = {
    "a weight that is no number": lambda tensors: with_one(tensors, "5.weight", math.nan),
    "an infinite bias": lambda tensors: with_one(tensors, "5.bias", -math.inf),
    "a mask of 2": lambda tensors: {"mask.5.weight": tensors["mask.5.weight"].byte() * 2},
    "a mask of floats": lambda tensors: {"mask.5.weight": tensors["mask.5.weight"].float()},
    "a mask of another shape": lambda tensors: {"mask.5.weight": tensors["mask.5.weight"][:3]},
    "a mask of nothing": lambda tensors: {"mask.9.weight": tensors["mask.5.weight"].clone()},
    "a pruned weight that is not 0": lambda tensors: {"5.weight": torch.ones_like(tensors["5.weight"])},
}
ANOTHER = {
    "a weight of another shape": lambda tensors: {"7.bias": tensors["7.bias"][:2].contiguous()},
    "a layer more": lambda tensors: {"8.weight": torch.ones(2, 2)},
    "a mask of a bias": lambda tensors: {"mask.7.bias": torch.ones(3, dtype=torch.bool)},
}
WITHOUT = ("5.weight", "7.bias", "mask.7.weight", "1.running_mean")


@pytest.mark.parametrize("what", DAMAGE)
def test_tensors_that_no_stage_writes(saved, small_network, what):
    path, tensors = saved
    save_file(tensors | DAMAGE[what](tensors), path)
    message = refusal(checkpoint.load_into, small_network, path, CPU, MADE_BY)
    assert message.startswith(f"{path} is damaged (") and message.endswith(f"; delete it, `{MADE_BY}` makes it again")


@pytest.mark.parametrize("what", [*ANOTHER, *WITHOUT])
def test_tensors_of_another_network(saved, small_network, what):
    path, tensors = saved
    tensors |= ANOTHER[what](tensors) if what in ANOTHER else {}
    save_file({name: tensor for name, tensor in tensors.items() if name != what}, path)
    message = refusal(checkpoint.load_into, small_network, path, CPU, MADE_BY)
    assert message.startswith(f"{path} ") and f"`{MADE_BY}` makes it" in message


def test_a_file_of_any_other_kind(tmp_path, small_network):
    path, executed = tmp_path / "network.safetensors", tmp_path / "executed"
    for content in (b"", b"\x00" * 20, b"[" * 10**5, pickle.dumps(Touch(executed)), pickle.dumps(Touch(executed), 0)):
        path.write_bytes(content)
        assert refusal(checkpoint.load_into, small_network, path, CPU, MADE_BY).startswith(f"{path} is damaged (")
    torch.save(Touch(executed), path)
    assert refusal(checkpoint.load_into, small_network, path, CPU, MADE_BY).startswith(f"{path} is damaged (")
    assert not executed.exists()


def test_a_file_cut_anywhere(saved, small_network):
    path, _ = saved
    content = path.read_bytes()
    for kept in (*range(0, 200, 7), len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        assert refusal(checkpoint.load_into, small_network, path, CPU, MADE_BY).startswith(f"{path} is damaged (")
