"""Any mutation of params.yaml is valid, or is refused in short lines that name the key. `make fuzz` tries thousands."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mutations
import properties
from prunus.study import params


@pytest.fixture(scope="module", autouse=True)
def methods_are_imported():
    params.read()


@pytest.mark.parametrize("kind", mutations.KINDS)
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_mutation_is_valid_or_gets_its_lines(tmp_path_factory, kind, data):
    properties.verdict(data.draw(mutations.KINDS[kind]), tmp_path_factory.getbasetemp())
