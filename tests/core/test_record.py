"""The records are a closed set of frozen values."""

import dataclasses
import typing

import pytest

from holdfast.core import record
from holdfast.core.record import RECORDS, Record


def test_the_set_is_the_union_and_everything_that_is_declared() -> None:
    declared = {
        found for found in vars(record).values() if isinstance(found, type) and found.__module__ == record.__name__
    }
    assert set(RECORDS) == set(typing.get_args(Record)) == declared
    assert len(RECORDS) == len(declared)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_a_record_is_frozen_and_takes_its_fields_by_name_only(kind: type) -> None:
    made = object.__new__(kind)
    field = dataclasses.fields(kind)[0].name
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        setattr(made, field, "other")
    with pytest.raises(TypeError):
        kind(*dataclasses.fields(kind))
