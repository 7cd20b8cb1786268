import json
import math

import pytest

from ganctl.train.ada import Ada, Pace, r_v, step


def run(ada: Ada, values: list[float], images: int = 64, pace: Pace | None = None) -> Ada:
    for value in values:
        ada = step(ada, value, images, pace or Pace())
    return ada


def test_p_moves_every_fourth_minibatch_by_its_share_of_500_kimg() -> None:
    found = []
    ada = Ada(p=0.5)
    for _ in range(8):
        ada = step(ada, 1.0, 64, Pace())
        found.append(ada.p)
    one = 64 * 4 / 500_000
    assert found == pytest.approx([0.5] * 3 + [0.5 + one] * 4 + [0.5 + 2 * one])


@pytest.mark.parametrize(
    ("signs", "direction"),
    [([0.7] * 4, 1), ([0.5] * 4, -1), ([1.0, 1.0, 1.0, -0.5], 1), ([1.0, 1.0, 1.0, -0.7], -1), ([-1.0] * 4, -1)],
)
def test_it_is_the_mean_sign_that_is_compared_with_the_target(signs: list[float], direction: int) -> None:
    assert math.copysign(1, run(Ada(p=0.5), signs).p - 0.5) == direction


def test_p_stays_at_the_target_and_in_its_range() -> None:
    assert run(Ada(p=0.5), [0.5] * 4, pace=Pace(target=0.5)).p == 0.5
    fast = Pace(kimg=0.3)
    assert run(Ada(p=0.9), [1.0] * 8, pace=fast).p == 1.0
    assert run(Ada(p=0.1), [0.0] * 8, pace=fast).p == 0.0
    assert run(Ada(), [-1.0] * 40).p == 0.0


def test_500_kimg_lead_from_nothing_to_everything() -> None:
    ada, images = Ada(), 0
    while ada.p < 1:
        ada, images = step(ada, 1.0, 1000, Pace()), images + 1000
    assert images == pytest.approx(500_000, abs=4000)


def test_a_restart_in_the_middle_changes_nothing() -> None:
    signs = [0.9, 0.1, 0.8, 0.2, 0.9, 1.0, 0.7, 0.4, 0.9, 0.3]
    whole = run(Ada(p=0.25), signs)
    for cut in range(len(signs)):
        saved = json.dumps(vars(run(Ada(p=0.25), signs[:cut])))
        assert run(Ada(**json.loads(saved)), signs[cut:]) == whole


def test_r_v() -> None:
    assert r_v(1.0, 1.0, -1.0) == 0 and r_v(1.0, -1.0, -1.0) == 1 and r_v(1.0, 0.0, -1.0) == 0.5
    assert math.isnan(r_v(0.3, 0.1, 0.3))
