"""Networks over tokens in C: the emulator's integers."""

from __future__ import annotations

import shutil

import pytest
from compiled import case, compile_and_run, differing
from token_networks import TOKEN_MODELS, token_model

import bitwright as bw

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")


def test_networks_over_tokens_in_c(tmp_path):
    cases = []
    for place, kind in enumerate(TOKEN_MODELS):
        for fuse in (True, False):
            recipe = ("int8", "zero points", "int3", "ternary", "log4", "int8")[place]
            model, x, _ = token_model(kind, recipe)
            network = bw.lower(model, x)
            assert bw.verify(model, network, [x], backend="interpreter").differing == 0
            cases.append(case(network, x.numpy().astype("float32"), f"n{place}{int(fuse)}", fuse))
    compared, wrong = differing(cases, compile_and_run(tmp_path, cases, together=True))
    assert wrong == 0
    assert compared > 5000
