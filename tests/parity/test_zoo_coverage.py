"""How many of MMDetection's configs run, counted again: `learndet zoo` must never count fewer than before.

LEARNDET_PARITY names the folder with facts about MMDetection's own models; without it only building is counted.
"""
import os
from collections import Counter

import pytest

from learndet.zoo.coverage import compare_digests, known_digests, zoo_coverage

FLOOR = 365        # configs with MMDetection's own names and shapes; raise it when parts land, never lower it


@pytest.fixture(scope='module')
def rows(mmdet_configs): return zoo_coverage(mmdet_configs)


def test_every_config_gets_an_answer(rows):
    assert len(rows) == 823
    assert {row['status'] for row in rows.values()} <= {'builds', 'parts', 'settings', 'piece', 'config'}
    for name, row in rows.items():
        if row['status'] in ('parts', 'settings', 'config'): assert row['missing'] and all(map(str, row['missing'])), name
    assert sum(row['status'] == 'config' for row in rows.values()) <= 9          # four name a missing base, five another package's


def test_no_fewer_run_than_before(rows): assert sum(row['status'] == 'builds' for row in rows.values()) >= FLOOR


def test_what_builds_is_the_same_model(rows, parity):
    "Every name, every shape, in MMDetection's order."
    compared = compare_digests(rows, known_digests(parity))
    count = Counter(row['status'] for row in compared.values())
    assert len(compared) == 796
    assert [name for name, row in compared.items() if row['status'] == 'differs'] == []
    assert count['equal'] >= FLOOR
