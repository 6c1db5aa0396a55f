"""bitwright formats: what it prints equals what is computed apart, fits 100 columns, refuses kindly."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bitwright.cli.drawing import ASCII, Axis, arrow_line, histogram, rug
from bitwright.cli.formats import command
from bitwright.cli.formats_text import ALIASES, FAMILIES
from bitwright.errors import BitwrightError
from bitwright.formats import Block, parse

EVERY = [name for _, names in FAMILIES for name in names]
SCALES = {"fixed12": "0.001", "flex16+5": "0.0009765625"}
WIDTH = 100


def call(*args):
    done = CliRunner().invoke(command, [str(a) for a in args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= WIDTH
    return done.output


def refused(*args):
    """The message of what is refused."""
    done = CliRunner().invoke(command, [str(a) for a in args])
    assert done.exit_code != 0
    assert done.exception is None or isinstance(done.exception, BitwrightError | SystemExit)
    return str(done.exception) if isinstance(done.exception, BitwrightError) else done.output


def line(output, label):
    """The text behind a label."""
    return next(row for row in output.splitlines() if row.startswith(f"  {label}  "))[
        2 + len(label) :
    ].strip()


def show(name, *options):
    return call(name, *(["--scale", SCALES[name]] if name in SCALES else []), *options)


# --- the list and the page of a format ---------------------------------------------------------------------


def test_the_list_names_every_format_with_its_numbers():
    output = call()
    rows = {row.split()[0]: row for row in output.splitlines() if row.startswith("  ") and row.split()}
    for name in EVERY:
        assert re.search(rf"^  {re.escape(name)} ", output, re.M)
    assert rows["e4m3fn"].split()[1:] == ["8", "253", "0.0019531", "-448", "448", "107.2"]
    assert rows["int8"].split()[1:] == ["8", "256", "1", "-128", "127", f"{20 * math.log10(127):.1f}"]
    assert rows["mxfp4"].split()[1:] == ["4.25", "15", "0.5", "s", "-6", "s", "6", "s", "21.6"]
    assert rows["nvfp4"].split()[1] == "4.5"
    for alias in ALIASES:
        assert f"{alias} = {parse(alias)}" in " ".join(output.split())


@pytest.mark.parametrize(
    "name", [*EVERY, "int1", "int32", "e4m3fn-flush", "log8-sqrt2", "uint1", "fixed29.88"]
)
def test_a_page_says_what_the_codes_say(name):
    output = show(name)
    form = parse(name)
    scale = float(SCALES.get(name, form.default_scale or 1))
    inner, worth = (form.element, form.step) if isinstance(form, Block) else (form, scale)
    if form.bits <= 12:
        values = [inner.number(c) * worth for c in inner.codes()]
        values = sorted({v for v in values if math.isfinite(v)})
        low, high = line(output, "range").split(",")[0].split(" to ")
        assert (float(low), float(high)) == pytest.approx((values[0], values[-1]))
        positive = [v for v in values if v > 0]
        if positive:
            decibels = 20 * math.log10(positive[-1] / positive[0])
            assert line(output, "dynamic range").startswith(f"{decibels:.1f} dB")
    for heading in ("what becomes of", "grid", "codes: "):
        assert f"\n{heading}" in output
    assert f"\n{form}: " in output


def test_special_codes_and_fates_are_told():
    output = call("e5m2")
    assert line(output, "codes") == "256: 247 values, 2 infinities, 6 NaN, -0"
    assert line(output, "normal") == "from 2^-14 = 6.1035156e-05"
    assert line(output, "subnormal") == "from 2^-16 = 1.5258789e-05"
    assert line(output, "saturate, symmetric").split() == ["NaN", "inf", "-inf", "57344", "-57344"]
    assert line(output, "infinite").split() == ["NaN", "inf", "-inf", "inf", "-inf"]
    assert line(output, "exact sums").startswith("none")
    assert line(call("int8"), "exact sums").endswith("1,024 in float32, 131,071 in int32")
    assert line(call("log4"), "codes") == "15; 1 bit pattern is no code"
    assert "4 an element + 8 a scale / 32 = 4.25" in call("mxfp4")


def test_code_tables():
    whole = call("e2m1f")
    assert re.search(r"^   5  0 10 1     3$", whole, re.M)
    assert "more: --all" not in whole
    assert "(240 more: --all)" in call("e4m3fn")
    every = call("e4m3fn", "--all")
    cells = re.findall(r"(\d+)  ([01] [01]{4} [01]{3}) +(\S+)", every.split("codes: code")[1])
    assert [int(code) for code, _, _ in sorted(cells, key=lambda c: int(c[0]))] == list(range(256))
    for code, bits, value in cells:
        assert int(bits.replace(" ", ""), 2) == int(code)
        number = parse("e4m3fn").number(int(code))
        assert float(value) == pytest.approx(number, nan_ok=True)


def test_values_with_options():
    assert line(call("e4m3fn", "--value", "-0.3"), "code").startswith("170 ")
    assert line(call("int8", "--value", "2.5", "--rounding", "ceil"), "code").startswith("3 ")
    assert line(call("int4", "--value", "9", "--overflow", "wrap"), "code").startswith("-7 ")
    affine = call("uint8", "--scale", "0.02", "--zero-point", "128", "--value", "-0.3")
    assert line(affine, "code").startswith(str(parse("uint8").encode(-0.3, scale=0.02, zero_point=128)))
    assert line(affine, "range") == "-2.56 to 2.54"
    draws = {
        line(call("int8", "--value", "0.5", "--rounding", "stochastic", "--seed", s), "code")
        for s in range(9)
    }
    assert len(draws) == 2
    block = call("mxfp4", "--value", "0.3,-1.7,5,7.9")
    assert "a block of 4 numbers" in block
    codes, scales = parse("mxfp4").encode(torch.tensor([0.3, -1.7, 5, 7.9]))
    assert f"code {scales[0]} " in block
    assert line(block, "rule").endswith("= 2 - 2 = 0")
    assert codes.tolist() == [1, 11, 6, 7]


def test_json():
    for name in EVERY:
        data = json.loads(show(name, "--json"))
        assert data["name"] == name.replace("binary8p4", "e4m3uz")
        assert data["codes"] == 2 ** data["bits"]
    assert json.loads(call("mxfp4", "--json"))["bits_per_element"] == 4.25
    assert json.loads(call("e4m3fn", "--json"))["smallest"] == 2.0**-9
    listed = json.loads(call("--json"))
    assert [entry["name"] for entry in listed] == [str(parse(name)) for name in EVERY]


# --- tensors -----------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path):
    x = torch.randn(16, 48, generator=torch.Generator().manual_seed(1)) * 0.1
    np.save(tmp_path / "w.npy", x.numpy())
    return tmp_path / "w.npy", x.double().numpy()


def test_printed_numbers_equal_computed_ones(weights):
    path, x = weights
    output = call("int4", "--tensor", path, "--scale", "0.04")
    y = np.clip(np.rint((x.astype(np.float32) / np.float32(0.04)).astype(np.float64)), -8, 7) * float(
        np.float32(0.04)
    )
    sqnr = 10 * math.log10((x**2).sum() / ((y - x) ** 2).sum())
    assert line(output, "SQNR") == f"{sqnr:.2f} dB"
    assert line(output, "values used") == f"{len(np.unique(y))} of 16: {16 - len(np.unique(y))} dead"
    flushed = ((y == 0) & (x != 0)).mean()
    assert line(output, "underflow").startswith(f"{100 * flushed:.1f} %")
    assert f"rms {math.sqrt(((y - x) ** 2).mean()):.4g}" in line(output, "error")
    data = json.loads(call("int4", "--tensor", path, "--scale", "0.04", "--json"))
    assert data["sqnr"] == pytest.approx(sqnr)
    assert data["flushed"] == pytest.approx(flushed)
    assert data["overflowing"] == pytest.approx(((x > 7 * 0.04) | (x < -8 * 0.04)).mean())


def test_scales_are_found_and_printed(weights):
    path, x = weights
    largest = json.loads(call("int4", "--tensor", path, "--scale", "max-abs", "--json"))
    best = json.loads(call("int4", "--tensor", path, "--scale", "mse", "--json"))
    assert largest["scale"] == pytest.approx(np.abs(x).max() / 7)
    assert best["sqnr"] > largest["sqnr"]
    printed = line(call("int4", "--tensor", path, "--scale", "mse"), "scale")
    assert printed.endswith(", found by mse")
    assert float(printed.split(",")[0]) == pytest.approx(best["scale"])


@pytest.mark.parametrize("name", EVERY)
def test_every_format_meets_a_tensor(weights, name):
    path, _ = weights
    for options in (["--scale", "max-abs"], ["--rounding", "stochastic", "--scale", "0.0009765625"]):
        output = call(name, "--tensor", path, *options)
        assert ("dB" if name != "fp32" else "infinite") in line(output, "SQNR")
        assert "█" in output


def test_odd_tensors(tmp_path):
    np.save(tmp_path / "nan.npy", np.full(3, np.nan, np.float32))
    output = call("int8", "--tensor", tmp_path / "nan.npy")
    assert "3 NaN, which become 0" in output
    assert "none: there is no signal" in output
    assert "3 NaN, which become NaN" in call("e4m3fn", "--tensor", tmp_path / "nan.npy")
    np.save(tmp_path / "zero.npy", np.zeros((2, 2), np.float32))
    for name in ("int8", "e4m3fn", "mxfp4", "log4", "binary"):
        call(name, "--tensor", tmp_path / "zero.npy")
    np.save(tmp_path / "one.npy", np.float32(3.0))
    assert "infinite: every element" in call("int8", "--tensor", tmp_path / "one.npy")
    assert json.loads(call("int8", "--tensor", tmp_path / "one.npy", "--json"))["sqnr"] is None
    np.save(tmp_path / "wild.npy", np.array([1e-40, -3e38, np.inf, 1.0], np.float32))
    for name in EVERY:
        show(name, "--tensor", tmp_path / "wild.npy")


def test_a_tensor_below_every_block_scale(tmp_path):
    np.save(tmp_path / "small.npy", np.full(16, 1e-4, np.float32))
    output = call("block16-int8-e4m3fn-divide", "--tensor", tmp_path / "small.npy")
    assert "nothing: every block has a scale of 0" in output
    assert line(output, "underflow").startswith("100.0 %")


def test_axes_of_blocks(weights):
    path, _ = weights
    found = {
        a: json.loads(call("mxfp4", "--tensor", path, "--axis", a, "--json"))["sqnr"] for a in (0, 1, -1)
    }
    assert found[1] == found[-1] != found[0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("int8", "--tensor", "missing.npy"), "no such file"),
        (("mxfp4", "--tensor", "w.npy", "--axis", "5"), "axis 5"),
        (("int8", "--tensor", "w.npy", "--key", "a"), "without a name"),
        (("int8", "--key", "a"), "--tensor FILE"),
        (("int8", "--scale", "mse"), "--tensor FILE"),
        (("int8", "--scale", "some"), "neither a number"),
        (("int8", "--value", "some"), "no number"),
        (("int8", "--value", "1,2"), "one number at a time"),
        (("int8", "--scale", "-1"), "positive"),
        (("int8", "--scale", "nan"), "positive"),
        (("fixed12",), "needs a scale"),
        (("fixed8.4", "--zero-point", "3"), "no zero point"),
        (("uint8", "--zero-point", "300"), "between 0 and 255"),
        (("e4m3fn", "--overflow", "wrap"), "does not wrap"),
        (("int8", "--overflow", "infinite"), "no infinity"),
        (("fp32", "--all"), "at most 65,536"),
        (("nvfp4", "--value", ",".join("1" * 17)), "1 to 16 numbers"),
        (("fxed8",), "did you mean"),
        (("--scale", "1"), "needs the name"),
        (("int8", "--plot", "x.jpg"), ".png"),
        (("int8", "--plot", "nowhere/x.png"), "folder"),
    ],
)
def test_mistakes_are_named(weights, args, message, monkeypatch):
    monkeypatch.chdir(weights[0].parent)
    assert message in refused(*args)
    assert [p.name for p in weights[0].parent.iterdir()] == ["w.npy"]


# --- drawings ----------------------------------------------------------------------------------------------


def test_marks_stand_where_the_values_are():
    axis = Axis(-8, 7, 91)
    marks = rug(range(-8, 8), axis)
    assert [i for i, c in enumerate(marks) if c == "│"] == [6 * k for k in range(16)]
    ticks, labels = axis.lines()
    assert labels.startswith("-8")
    assert labels.endswith("7")
    for column, label in axis.ticks():
        assert column == round((float(label) + 8) / 15 * 90)
    assert len(ticks) == 91
    octaves = Axis(-3, 3, 61, log=True)
    assert (octaves.column(1.0), octaves.column(0.125), octaves.column(99.0)) == (30, 0, 60)


def test_histograms_and_limits():
    rows = histogram([0, 1, 50, 100], rows=2)
    assert rows == ["   █", " ▁██"]
    axis = Axis(-1, 1, 41)
    assert arrow_line(axis, (-1, 1)) == "├ -1" + " " * 34 + "1 ┤"
    assert arrow_line(axis, (-8, 7)) == "◂ -8" + " " * 34 + "7 ▸"
    assert arrow_line(axis, (-0.05, 0.05)).strip() == "-0.05 ├─┤ 0.05"
    assert arrow_line(axis, (2, 3)).startswith("the format has no value here")
    assert len(arrow_line(axis, (0.97, 0.99))) <= 41
    drawing = "".join(chr(c) for c in ASCII)
    assert drawing.translate(ASCII).isascii()


def test_the_grid_of_a_float_shows_every_value_of_a_small_one():
    marks = call("e2m1f").split("mirror image)\n")[1].splitlines()[0]
    # 0.5 to 6 over 96 columns of a logarithmic axis
    places = [round(math.log2(v / 0.5) / math.log2(12) * 95) for v in (0.5, 1, 1.5, 2, 3, 4, 6)]
    assert [i for i, c in enumerate(marks[2:]) if c == "│"] == places
    assert "├" in call("e4m3fn")
    assert call("int4").split("grid\n")[1].splitlines()[0].count("│") == 16


@pytest.mark.parametrize(
    "name", ["fixed8.4", "e4m3fn", "bf16", "e8m0fnu", "nvfp4", "flex16+5", "log4-sqrt2", "ternary", "int1"]
)
def test_plots(name, tmp_path):
    output = show(name, "--plot", tmp_path / "p.png")
    assert f"drew {tmp_path / 'p.png'}"[:60] in output.replace("\n", "")
    data = (tmp_path / "p.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 60_000


def test_the_curve_of_a_plot_is_the_sqnr():
    from bitwright.analysis.format_picture import sqnr_curve
    from bitwright.analysis.tensors import effect

    form = parse("fixed8.4")
    rms, found = sqnr_curve(form, 0.0625)
    x = torch.randn(1 << 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for i in (30, 60, 90):
        assert found[i] == pytest.approx(effect(form, x * rms[i]).sqnr, abs=1e-6)
    # where nothing saturates, the error is uniform over a step: 10 log10(rms^2 / (step^2 / 12))
    i = int(np.argmin(np.abs(rms - 0.5)))
    assert found[i] == pytest.approx(10 * math.log10(12 * (rms[i] / 0.0625) ** 2), abs=0.1)


def test_the_list_and_a_page_import_no_torch():
    code = (
        "import sys; from click.testing import CliRunner; from bitwright.cli.formats import command; "
        "done = CliRunner().invoke(command, ['e4m3fn']); assert done.exit_code == 0; "
        "print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
