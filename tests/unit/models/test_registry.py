"""Looks up architectures by name."""

from __future__ import annotations

import subprocess
import sys

import pytest
from nightbid.errors import ConfigError
from nightbid.models.registry import find, names


def test_a_misspelled_architecture_suggests_the_right_one():
    with pytest.raises(ConfigError, match=r"'dcn_v3'.*did you mean 'dcn_v2'"):
        find("dcn_v3")


def test_a_misspelled_hyperparameter_suggests_the_right_one():
    with pytest.raises(ConfigError, match=r"'cross_layer'.*did you mean 'cross_layers'"):
        find("dcn_v2").parameters({"cross_layer": 2})


def test_a_hyperparameter_of_the_wrong_type_is_rejected_with_its_value():
    with pytest.raises(ConfigError, match=r"model\.parameters\.cross_layers.*'many'"):
        find("dcn_v2").parameters({"cross_layers": "many"})


def test_missing_hyperparameters_get_defaults():
    assert find("deep").parameters({"hidden": [8]}) == {"hidden": (8,), "dropout": 0.0}


def test_every_file_registers_its_architecture():
    for name in names():
        assert find(name).name == name


def test_listing_architectures_imports_no_tensorflow():
    code = (
        "import sys; from nightbid.models.registry import names; names();"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
