"""Fitted features give ids and floats, leak no label, and are the same everywhere."""

from __future__ import annotations

import math
import shutil
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.column_parsing import encode
from nightbid.config.load import parse_pipeline
from nightbid.errors import ConfigError, DataError, MissingDataError
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.features.learn import learn
from nightbid.features.statistics import TokenCounts, merge_all
from upath import UPath

from .columns import column_values, with_column


def test_inputs_match_the_types_and_ranges_of_the_schema(fitted, make_rows):
    rows = make_rows(800, seed=1)
    inputs = fitted.transform(rows)
    expected = []
    for spec in fitted.schema.inputs:
        expected.append(spec.name)
        column = inputs[spec.name].combine_chunks()
        if spec.kind == "float":
            assert column.type == pa.float32()
            assert np.isfinite(np.asarray(column)).all()
            continue
        if spec.kind != "id":
            assert column.type == pa.list_(pa.int32(), spec.length)
            column = column.flatten()
        if spec.kind == "bag":
            expected.append(f"{spec.name}__weight")
        assert column.type == pa.int32()
        assert pc.min(column).as_py() >= 0
        assert pc.max(column).as_py() < spec.size
    assert inputs.column_names == expected
    assert all(column.null_count == 0 for column in inputs.columns)


def test_a_vocabulary_gives_ids_to_frequent_values_and_hashes_the_rest(fitted, make_rows):
    rows = with_column(
        make_rows(5), "site", pa.array(["a", "b", "never seen", None, ""], pa.string())
    )
    # 0 is missing and 1 to 3 are OOV; entries follow, the most frequent first.
    ids = column_values(fitted, rows, "site")
    assert ids[:2] == [4, 5]
    assert 1 <= ids[2] <= 3
    assert ids[3:] == [0, 0]


def test_missing_nan_and_infinite_numbers_become_the_mean(fitted, make_rows):
    rows = with_column(make_rows(3), "price", pa.array([None, math.nan, math.inf]))
    assert column_values(fitted, rows, "price") == [0.0, 0.0, 0.0]
    assert column_values(fitted, rows, "price__missing") == [1.0, 1.0, 1.0]
    assert column_values(fitted, rows, "price_bucket") == [0, 0, 0]


def test_standardized_training_rows_have_mean_0_and_deviation_1(fitted, make_rows):
    values = np.asarray(fitted.transform(make_rows())["price"])
    known = values[np.asarray(fitted.transform(make_rows())["price__missing"]) == 0]
    assert known.mean() == pytest.approx(0, abs=1e-6)
    assert known.std() == pytest.approx(1, abs=1e-6)


def test_a_boundary_belongs_to_the_bucket_above(fitted, make_rows):
    rows = with_column(make_rows(5), "price", pa.array([0.5, 1.0, 1.5, 5.0, 99.0]))
    assert column_values(fitted, rows, "fixed_bucket") == [1, 2, 2, 4, 4]


def test_bags_weight_items_equally_and_sequences_keep_the_last(fitted, make_rows):
    tags = pa.array([["buy", "red", "now", "shoes"], ["buy"], [], None, ["buy", None]])
    rows = with_column(make_rows(5), "tags", tags)
    ids, weights = column_values(fitted, rows, "tags"), column_values(fitted, rows, "tags__weight")
    assert weights[0] == pytest.approx([1 / 3] * 3)
    assert weights[1] == [1, 0, 0]
    assert ids[2] == ids[3] == [0, 0, 0]
    assert weights[4] == [1, 0, 0]
    recent = column_values(fitted, rows, "recent")
    assert recent[1][1] == 0
    assert recent[0] != recent[1]


def test_given_weights_of_a_bag_are_scaled_to_sum_1(fitted, make_rows):
    rows = with_column(make_rows(4), "tags", pa.array([["buy", "red"], ["buy", None], ["buy"], []]))
    scores = pa.array([[1.0, 3.0], [2.0, 5.0], [math.nan], [7.0]])
    weights = column_values(fitted, with_column(rows, "scores", scores), "liked__weight")
    assert weights == [[0.25, 0.75, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_spilled_counts_give_the_same_vocabulary(tmp_path):
    """A limit bounds memory, and the counts stay exact."""
    random = np.random.default_rng(9)
    parts = []
    for _ in range(6):
        tokens = pa.array([f"token {number}" for number in random.zipf(1.3, 3000)])
        parts.append(TokenCounts.of(*encode(tokens)))
    plain, bounded = TokenCounts(()), TokenCounts(())
    for part in parts:
        plain, bounded = plain.merge(part), bounded.merge(part).spill(tmp_path, limit=500)
    assert bounded.spilled
    assert sum(map(len, bounded.parts)) <= 500
    for top_k, min_count in ((10_000, 1), (300, 2), (1, 1)):
        assert bounded.top(top_k, min_count).equals(plain.top(top_k, min_count))


def test_a_separated_string_is_the_same_as_a_list(fitted, make_rows):
    lists = with_column(make_rows(2), "tags", pa.array([["buy", "red"], []], pa.list_(pa.string())))
    texts = with_column(make_rows(2), "tags", pa.array(["buy,red", ""]))
    assert column_values(fitted, lists, "tags") == column_values(fitted, texts, "tags")


def test_ngrams_depend_on_word_order_and_ignore_case(fitted, make_rows):
    rows = with_column(make_rows(3), "title", pa.array(["red shoes", "shoes red", "RED  shoes "]))
    first, second, third = column_values(fitted, rows, "words")
    assert first == third
    assert sorted(first[:2]) == sorted(second[:2])
    assert first[2] != second[2]


def test_an_identity_outside_its_range_counts_as_missing(fitted, make_rows):
    rows = with_column(make_rows(5), "slot", pa.array([0.0, 3.0, 4.0, -1.0, 1.5]))
    assert column_values(fitted, rows, "slot") == [1, 4, 0, 0, 0]


@pytest.mark.parametrize("transform", ["vocabulary", "numeric", "hour"])
def test_a_list_in_a_scalar_feature_is_rejected_with_the_transform_to_use(make_rows, transform):
    definition = Definition.of(
        parse_pipeline(
            f"pipeline: t\ncolumns: {{time: served}}\nfeatures: {{liked: {{transform: {transform},"
            " column: tags}}",
            "t",
        )
    )
    rows = with_column(make_rows(2), "tags", pa.array([["a", "b"], []], pa.list_(pa.string())))
    with pytest.raises(DataError, match=r"features\.liked: .*list<.*string.*transform: bag"):
        FittedFeatures.fit(definition, learn(definition.features, rows, train=True)).transform(rows)


def test_an_enormous_number_leaves_the_other_rows_finite(make_rows):
    definition = Definition.of(
        parse_pipeline(
            "pipeline: t\ncolumns: {time: served}\n"
            "features: {price: {transform: numeric, column: number}}",
            "t",
        )
    )
    values = np.append(np.arange(99.0), np.finfo(np.float64).max)
    rows = with_column(make_rows(100), "number", pa.array(values))
    fitted = FittedFeatures.fit(definition, learn(definition.features, rows, train=True))
    assert np.isfinite(column_values(fitted, rows, "price")).all()


def test_saved_features_transform_identically_and_save_identical_bytes(fitted, make_rows, tmp_path):
    fitted.save(tmp_path / "a")
    loaded = FittedFeatures.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    rows = make_rows(300, seed=5)
    assert loaded.transform(rows).equals(fitted.transform(rows))
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) >= 7
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 400), max_size=5), order=st.randoms(use_true_random=False))
def test_fitted_bytes_do_not_depend_on_split_order_or_spilling(
    definition, table, tmp_path_factory, cuts, order
):
    edges = sorted({0, *cuts, len(table)})
    parts = [table.slice(a, b - a) for a, b in pairwise(edges)]
    order.shuffle(parts)
    merged: dict = {}
    spilled: dict = {}
    folder = tmp_path_factory.mktemp("fit")
    for part in parts:
        part_state = learn(definition.features, part, train=True)
        merged = merge_all(merged, part_state)
        spilled = {
            name: state.spill(UPath(folder) / "spilled", 20) if hasattr(state, "spill") else state
            for name, state in merge_all(spilled, part_state).items()
        }
    whole = learn(definition.features, table, train=True)
    FittedFeatures.fit(definition, whole).save(folder / "whole")
    FittedFeatures.fit(definition, merged).save(folder / "parts")
    FittedFeatures.fit(definition, spilled).save(folder / "files")
    for path in sorted((folder / "whole").rglob("*.*")):
        for name in ("parts", "files"):
            other = folder / name / path.relative_to(folder / "whole")
            assert path.read_bytes() == other.read_bytes(), f"{name} {path.name}"


def test_loaded_features_survive_rewriting_and_deleting_their_folder(
    definition, make_rows, tmp_path
):
    def fit(seed: int) -> FittedFeatures:
        rows = make_rows(3000 // seed, seed=seed, days=3)
        return FittedFeatures.fit(definition, learn(definition.features, rows, train=True))

    rows = make_rows(300, seed=5, days=4)
    first = fit(1)
    first.save(tmp_path)
    loaded = FittedFeatures.load(tmp_path)
    fit(30).save(tmp_path)
    assert loaded.transform(rows).equals(first.transform(rows))
    shutil.rmtree(tmp_path)
    assert loaded.transform(rows).equals(first.transform(rows))


def test_a_missing_column_is_reported_with_a_suggestion(fitted, make_rows):
    rows = make_rows(3).rename_columns(
        ["sites" if name == "site" else name for name in make_rows(3).column_names]
    )
    with pytest.raises(MissingDataError, match=r"column 'site' is missing.*did you mean 'sites'"):
        fitted.transform(rows)


def test_a_sequence_with_an_unknown_vocabulary_is_rejected():
    spec = parse_pipeline(
        "pipeline: t\nfeatures: {item: vocabulary, seen: {transform: sequence, vocabulary: itm}}",
        "t",
    )
    with pytest.raises(ConfigError, match="did you mean 'item'"):
        Definition.of(spec)
