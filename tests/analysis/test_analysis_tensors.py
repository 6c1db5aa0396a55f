"""What a format does to a tensor, against numpy on the values one by one; files, hostile ones too."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bitwright.analysis.tensor_files import read_tensor
from bitwright.analysis.tensors import effect, max_abs_scale, mse_scale
from bitwright.errors import BitwrightError, FileFormatError, InvalidTypeError, InvalidValueError
from bitwright.formats import parse


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one_by_one(form, x, scale):
    """Values through the scalar reference; blocks row by row."""
    if not hasattr(form, "encode_row"):
        return np.array([form.quantize(float(v), scale=scale) for v in x.flatten()]).reshape(x.shape)
    rows = [form.decode_row(*form.encode_row(row.tolist(), scale), scale) for row in x]
    return np.array(rows)


@pytest.mark.parametrize(
    "name", ["int4", "fixed8.4", "e4m3fn", "e2m1f", "log4", "binary", "ternary", "mxfp4", "nvfp4"]
)
@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_effect_equals_sums_over_the_scalar_reference(name, scale):
    form, x = parse(name), drawn(7, 40) * 3
    x[0, :5] = 0
    y, values = one_by_one(form, x, scale), x.double().numpy()
    found = effect(form, x, scale=scale)
    assert found.elements == 280
    assert found.largest == np.abs(values).max()
    assert found.rms == pytest.approx(math.sqrt((values**2).mean()))
    assert found.sqnr == pytest.approx(10 * math.log10((values**2).sum() / ((y - values) ** 2).sum()))
    assert found.mean_error == pytest.approx((y - values).mean())
    assert found.rms_error == pytest.approx(math.sqrt(((y - values) ** 2).mean()))
    assert found.largest_error == pytest.approx(np.abs(y - values).max())
    assert found.flushed == pytest.approx((y == 0)[values != 0].mean())
    if hasattr(form, "encode_row"):
        codes = [form.encode_row(row.tolist(), scale) for row in x]
        assert found.used == len({form.element.number(c) for row, _ in codes for c in row})
        assert found.scales_used == len({s for _, scales in codes for s in scales})
        assert found.values == 15
    else:
        grid = np.array(form.grid(scale))
        grid = grid[np.isfinite(grid)]
        beyond = (values > grid.max()) | (values < grid.min())
        assert found.overflowing == pytest.approx(beyond.mean())
        assert found.values == len(set(grid.tolist()))
        assert found.dead == found.values - len(set(y.flatten().tolist()))


def test_overflow_of_a_block_counts_beyond_its_own_limits():
    form = parse("mxfp4")
    x = torch.zeros(1, 64)
    x[0, :3] = torch.tensor([7.9, 6.1, 6.0])  # scale 1 by the rule floor: two lie beyond 6
    x[0, 32] = 0.001
    assert effect(form, x).overflowing == 2 / 64
    assert effect(form, x).scales_used == 2


def test_what_is_not_finite_is_counted_apart():
    x = torch.tensor([1.0, math.nan, math.inf, -math.inf, 2.0])
    found = effect(parse("int8"), x)
    assert (found.elements, found.nans, found.infinities, found.largest) == (5, 1, 2, 2.0)
    assert found.sqnr == math.inf
    assert found.used == 2
    nothing = effect(parse("e4m3fn"), torch.full((3,), math.nan))
    assert (nothing.sqnr, nothing.used, nothing.rms, nothing.flushed) == (None, 0, 0.0, 0.0)
    assert effect(parse("int8"), torch.zeros(4)).sqnr is None


def test_effect_refuses_what_it_cannot_measure():
    with pytest.raises(InvalidValueError, match="with elements"):
        effect(parse("int8"), torch.empty(0))
    with pytest.raises(InvalidTypeError, match="only float"):
        effect(parse("int8"), torch.ones(3, dtype=torch.int64))
    with pytest.raises(InvalidTypeError, match="no zero point"):
        effect(parse("mxfp4"), torch.ones(3), zero_point=1)
    with pytest.raises(InvalidValueError, match="axis"):
        effect(parse("mxfp4"), torch.ones(3), axis=1)


def test_scales_from_the_data():
    x = drawn(4000)
    assert max_abs_scale(parse("int8"), x) == pytest.approx(float(x.abs().max()) / 127)
    # the best scale of a sign is the mean magnitude (XNOR-Net, section 3.1)
    assert mse_scale(parse("binary"), x) == pytest.approx(float(x.abs().mean()), rel=2e-3)
    # Lloyd-Max with equal steps: 0.3352 sigma for 16 levels (Max 1960, table 2); ours has 0 and no half step
    assert mse_scale(parse("int4"), drawn(1 << 17)) == pytest.approx(0.3352, rel=0.03)
    for name in ("int4", "ternary", "e2m1f", "log4", "fixed8.4", "nvfp4"):
        form = parse(name)
        best, largest = mse_scale(form, x), max_abs_scale(form, x)
        assert effect(form, x, scale=best).sqnr >= effect(form, x, scale=largest).sqnr
        for other in np.geomspace(largest / 500, largest * 2, 20):
            assert effect(form, x, scale=best).sqnr >= effect(form, x, scale=float(other)).sqnr - 0.05
    flex = parse("flex16+5")
    assert max_abs_scale(flex, x) in [2.0**-e for e in flex.exponents]
    assert float(x.abs().max()) <= max_abs_scale(flex, x) * 32767 < 2 * float(x.abs().max())
    assert mse_scale(flex, x) == max_abs_scale(flex, x)
    assert mse_scale(parse("int8"), torch.cat([x, torch.tensor([math.inf, math.nan])])) < 0.1
    with pytest.raises(InvalidValueError, match="finite and not 0"):
        max_abs_scale(parse("int8"), torch.zeros(3))


# --- files -------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    x = drawn(3, 4)
    np.save(tmp_path / "one.npy", x.numpy())
    np.savez(tmp_path / "two.npz", a=x.numpy(), b=np.zeros(3, np.float32))
    save_file({"a": x, "b": x.bfloat16()}, tmp_path / "two.safetensors")
    torch.save({"epoch": 3, "state_dict": {"conv.weight": x, "steps": torch.tensor(3)}}, tmp_path / "net.pt")
    torch.save(x, tmp_path / "bare.pth")
    return tmp_path, x


@pytest.mark.parametrize(
    ("file", "key", "name"),
    [
        ("one.npy", None, "one"),
        ("two.npz", "a", "a"),
        ("two.safetensors", "a", "a"),
        ("net.pt", "state_dict.conv.weight", "state_dict.conv.weight"),
        ("bare.pth", None, "bare"),
    ],
)
def test_files_give_their_tensors_back(files, file, key, name):
    folder, x = files
    found, tensor = read_tensor(folder / file, key)
    assert found == name
    assert torch.equal(tensor, x)


def test_types_of_files(files):
    folder, x = files
    _, narrow = read_tensor(folder / "two.safetensors", "b")
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow, x.bfloat16().float())
    np.save(folder / "big.npy", x.numpy().astype(">f8"))
    _, wide = read_tensor(folder / "big.npy")
    assert wide.dtype == torch.float64
    assert torch.equal(wide, x.double())


class Trap:
    """A pickle that would make a folder where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def hostile(folder: Path) -> dict[str, tuple[str | None, type[BitwrightError], str]]:
    """file -> (key, error, message); the files are written."""
    trap = folder / "sprung"
    np.save(folder / "objects.npy", np.array([Trap(trap)], dtype=object), allow_pickle=True)
    (folder / "pickle.pt").write_bytes(pickle.dumps(Trap(trap)))
    torch.save({"a": Trap(trap)}, folder / "zipped.pt")
    for name in ("noise.npy", "noise.npz", "noise.safetensors", "noise.pt", "noise.th"):
        (folder / name).write_bytes(bytes(range(256)))
        (folder / f"empty-{name}").write_bytes(b"")
    whole = (folder / "one.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-5])
    (folder / "cut.safetensors").write_bytes((folder / "two.safetensors").read_bytes()[:-9])
    np.save(folder / "integers.npy", np.arange(5))
    np.save(folder / "complex.npy", np.ones(3, np.complex64))
    np.save(folder / "none.npy", np.zeros((0, 3), np.float32))
    torch.save({"nothing": 1}, folder / "numbers.pt")
    (folder / "folder.npy").mkdir()
    broken = ("objects.npy", "pickle.pt", "zipped.pt", "cut.npy", "cut.safetensors")
    noise = [p.name for p in folder.iterdir() if "noise" in p.name]
    return {
        **dict.fromkeys((*broken, *noise), (None, FileFormatError, "read safely")),
        "missing.npy": (None, FileFormatError, "no such file"),
        "folder.npy": (None, FileFormatError, "no such file"),
        "two.npz": (None, InvalidValueError, "holds 2 tensors: a, b; pick one by --key"),
        "two.safetensors": ("c", InvalidValueError, "valid ones are a, b"),
        "net.pt": ("state_dict.steps", InvalidTypeError, "only float"),
        "one.npy": ("a", InvalidValueError, "without a name"),
        "integers.npy": (None, InvalidTypeError, "int64"),
        "complex.npy": (None, InvalidTypeError, "complex64"),
        "none.npy": (None, InvalidValueError, "with elements"),
        "numbers.pt": (None, InvalidValueError, "holds a tensor"),
    }


def test_hostile_files_end_in_one_error(files):
    folder, _ = files
    for file, (key, error, message) in hostile(folder).items():
        with pytest.raises(error, match=message):
            read_tensor(folder / file, key)
    assert not (folder / "sprung").exists()
    (folder / "x.txt").write_text("1")
    with pytest.raises(FileFormatError, match=r"\.npy, \.npz"):
        read_tensor(folder / "x.txt")


DATA = Path(os.environ.get("BITWRIGHT_DATA", "nowhere")) / "checkpoints" / "resnet20-12fca82f.th"


@pytest.mark.skipif(not DATA.is_file(), reason="no checkpoint in $BITWRIGHT_DATA/checkpoints")
def test_real_weights():
    _, x = read_tensor(DATA, "state_dict.module.layer2.0.conv1.weight")
    assert x.shape == (32, 16, 3, 3)
    assert mse_scale(parse("binary"), x) == pytest.approx(float(x.abs().mean()), rel=5e-3)
    sqnr = {name: effect(parse(name), x, axis=1).sqnr for name in ("mxfp4", "nvfp4", "mxfp8e4m3", "bf16")}
    assert sqnr["mxfp4"] < sqnr["nvfp4"] < sqnr["mxfp8e4m3"] < sqnr["bf16"]
