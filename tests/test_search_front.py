"""The Pareto front of a search and the best of it, against the definition."""

import math
from dataclasses import replace

import numpy as np
from helpers.search_studies import BASELINE, complete, incomplete, network, study_of

from keras_effnetv2.search.record import best, find, pareto_front


def numbers(found):
    return [one.number for one in found]


def front_of(*trials):
    return numbers(find(study_of(*trials)).front)


def beats(one, other):
    """The definition, as a sentence: no worse in anything, and not the same."""
    return (
        one.accuracy >= other.accuracy
        and one.step_time <= other.step_time
        and one.parameters <= other.parameters
        and (one.accuracy, one.step_time, one.parameters)
        != (other.accuracy, other.step_time, other.parameters)
    )


def test_a_front_by_hand():
    assert front_of(
        complete(0, 0.80, 1.0, 6_000_000),
        complete(1, 0.85, 1.5, 9_000_000),  # the most accurate
        complete(2, 0.70, 0.5, 7_000_000),  # the fastest
        complete(3, 0.60, 1.2, 2_000_000),  # the smallest
        complete(4, 0.79, 1.0, 6_000_000),  # beaten by 0 in accuracy alone
        complete(5, 0.80, 1.1, 6_000_000),  # in step time alone
        complete(6, 0.80, 1.0, 6_000_001),  # in parameters alone
        complete(7, 0.85, 1.6, 8_000_000),  # as accurate as 1, slower, smaller
    ) == [1, 7, 0, 2, 3]


def test_the_front_is_what_the_definition_says():
    random = np.random.default_rng(0)
    for _ in range(5):
        # Few values, so that there are ties in each measure, and equal networks in all three.
        trials = [
            complete(i, *(int(value) / 8 for value in random.integers(1, 8, 2)), int(parameters))
            for i, parameters in enumerate(random.integers(1, 8, 80))
        ]
        found = find(study_of(*trials)).candidates
        unbeaten = {one.number for one in found if not any(beats(two, one) for two in found)}
        assert set(numbers(pareto_front(found))) == unbeaten
        assert numbers(pareto_front(found[::-1])) == numbers(pareto_front(found))
        assert best(found).number in unbeaten


def test_different_networks_with_equal_measures_are_both_on_the_front():
    assert front_of(*(complete(i, 0.5, 1.0, 1000) for i in range(3))) == [0, 1, 2]


def test_a_network_that_was_tried_again_counts_once():
    again = network(0)
    assert front_of(
        complete(0, 0.80, 1.0, 1000, again),
        complete(1, 0.81, 1.0, 1000, replace(again, name="other", train_size=96)),
        complete(2, 0.79, 0.9, 1000, again),  # unbeaten, with a lower score than 1
        complete(3, 0.81, 1.0, 1000, again),  # the same as 1, later
    ) == [1]
    narrow = replace(again, head_filters=640)
    assert front_of(complete(0, 0.8, 1.0, 9, again), complete(1, 0.7, 0.9, 9, narrow)) == [0, 1]


def test_only_complete_trials_that_can_be_compared_count():
    trials = [
        incomplete(0, "pruned"),
        incomplete(1, "failed", "out of memory"),
        incomplete(2, "running"),
        replace(complete(3, 0.9, 0.1, 10), step_time=None),
        complete(4, math.nan, 0.1, 10),
        complete(5, 0.9, math.inf, 10, score=0.5),
        complete(6, 0.1, 9.0, 90_000_000),
    ]
    findings = find(study_of(*trials))
    assert numbers(findings.candidates) == numbers(findings.front) == [6]
    assert findings.best == findings.candidates[0]
    assert find(study_of()) == ([], [], None, None)


def test_the_best_within_a_number_of_parameters():
    study = study_of(
        complete(0, 0.80, 1.0, 6_000_000, score=0.40),
        complete(1, 0.60, 1.0, 1_000, score=0.30),
        complete(2, 0.85, 1.0, 9_000_000, score=0.41),
    )
    found = find(study).candidates
    assert best(found) == found[2]
    for budget, number in ((9_000_000, 2), (8_999_999, 0), (5_999_999, 1)):
        assert best(found, max_parameters=budget) == found[number]
    assert best(found, max_parameters=999) is None


def test_the_best_of_equal_scores_is_on_the_front():
    # As with exponents of 0, where the score is the accuracy.
    measures = ((1.0, 20), (0.9, 20), (0.9, 10), (0.9, 10))
    trials = [complete(i, 0.8, *one, score=0.8) for i, one in enumerate(measures)]
    findings = find(study_of(*trials))
    assert findings.best.number == 2
    assert numbers(findings.front) == [2, 3]


def test_the_baseline_is_known_by_its_network():
    of_that_name = replace(network(1), name=BASELINE.name)
    searched = replace(BASELINE, name="efficientnetv2-b0-search", train_size=64)
    found = find(
        study_of(
            complete(0, 0.9, 1.0, 1000, of_that_name),
            complete(1, 0.9, 1.0, 1000, replace(BASELINE, head_filters=640)),
            complete(2, 0.7, 1.0, 1000, searched),
            complete(3, 0.8, 1.0, 1000, BASELINE),
        )
    )
    assert found.baseline.number == 2
    marks = [found.marks(one) for one in found.candidates]
    assert marks == ["best, front", "front", "baseline", ""]
    given_up = replace(incomplete(0, "pruned"), config=BASELINE)
    assert find(study_of(given_up, complete(1, 0.9, 1.0, 1000))).baseline is None
