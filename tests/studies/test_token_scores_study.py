"""The study of token scores: its sentences, its arithmetic, its rules on made-up rows, and a run too small to learn."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from weigher.studies import token_scores as study
from weigher.studies.faithfulness import GRADIENTS, OUT, OWN, RANDOM, SHARES, areas, attributions, mean_areas
from weigher.studies.harness import Context, Row, judge, run_study
from weigher.studies.negations import PAIRS
from weigher.tokens.local_attention import window_radius
from weigher.tokens.token_scores import ScorerConfig, TokenScorer
from weigher.tokens.words import split_words

*ABOVE, BEST, GRU_WINS, COUNTING, COUNTING_PAIRS, TURNED, FAST = study.STUDY.claims
POSITIVE = {pair.plain: pair.plain_is_positive for group in PAIRS.values() for pair in group}
NEGATED = {pair.negated: not pair.plain_is_positive for group in PAIRS.values() for pair in group}


def test_forty_negations_lie_as_far_from_their_word_as_a_window_reaches():
    assert tuple(PAIRS) == tuple(window_radius(window) for window in study.WINDOWS)
    assert [len(group) for group in PAIRS.values()] == [10] * 4
    assert len(POSITIVE) == len(set(NEGATED)) == 40
    for distance, group in PAIRS.items():
        assert sum(pair.plain_is_positive for pair in group) == 5
        for pair in group:
            words = split_words(pair.negated)
            assert words.index(pair.turned) - words.index(pair.negation) == distance, pair
            assert pair.negation not in split_words(pair.plain)
            assert pair.turned in split_words(pair.plain)


def test_the_behavioural_table_of_one_who_understands_and_of_one_who_counts_words():
    understood = {sentence: 1.0 if positive else -1.0 for sentence, positive in {**POSITIVE, **NEGATED}.items()}
    found = study.behaviour(understood | dict.fromkeys(study.SENTENCES, -1.0))
    assert set(found.values()) == {100.0}
    blind = {pair.negated: understood[pair.plain] for group in PAIRS.values() for pair in group}
    found = study.behaviour(understood | blind | dict.fromkeys(study.SENTENCES, 1.0))
    assert found.pop("plain twins right %") == 100
    assert set(found.values()) == {0.0}
    near = understood | {pair.negated: understood[pair.plain] for d, group in PAIRS.items() if d > 2 for pair in group}
    found = study.behaviour(near | dict.fromkeys(study.SENTENCES, 1.0))
    assert [found[f"negations right %, {d} words apart"] for d in PAIRS] == [100, 100, 0, 0]
    assert found["negations right %"] == found["pairs right %"] == 50


def scorer(model="token-mlp"):
    torch.manual_seed(0)
    model = TokenScorer(20, ScorerConfig(model, embedding=6, hidden=8, layers=(8,), heads=2)).double().eval()
    torch.nn.init.normal_(model.embedding.weight)
    return model


@pytest.mark.parametrize("model", ["gru", "token-mlp", "weighted-mlp", "local-attention"])
def test_attributions_are_what_they_are_called(model):
    model, ids = scorer(model), np.array([3, 1, 4, 1, 5, 9, 2])
    found = attributions(model, ids, np.random.default_rng(0), steps=400)

    def logit(row):
        with torch.no_grad():
            return model(torch.from_numpy(row)[None], torch.tensor([len(row)])).logits.item()

    assert found[OWN].sum() == pytest.approx(logit(ids))
    for place in range(7):
        without = ids.copy()
        without[place] = 20
        assert found[OUT][place] == pytest.approx(logit(ids) - logit(without))
    # completeness: what integrated gradients give adds up to the way from the baseline
    assert found[GRADIENTS].sum() == pytest.approx(logit(ids) - logit(np.full(7, 20)), rel=1e-2, abs=1e-3)


def test_where_words_are_alone_all_honest_ways_agree_but_for_a_constant():
    model, ids = scorer(), np.array([3, 1, 4, 1, 5, 9, 2])
    found = attributions(model, ids, np.random.default_rng(0), steps=400)
    gap = found[OWN] - found[OUT]
    assert np.ptp(gap) < 1e-9  # what an unknown word would say
    assert np.allclose(found[GRADIENTS], found[OUT], atol=0.02)


@pytest.mark.parametrize("turned", [False, True])
def test_areas_of_a_model_of_single_words_are_those_of_its_sorted_sum(turned):
    model, ids = scorer(), np.arange(20)
    with torch.no_grad():
        for parameter in model.head[-1].parameters():
            parameter.mul_(-1 if turned else 1)  # the other class is predicted
        scores = model(torch.arange(21)[None], torch.tensor([21])).scores[0].numpy()
    worth = (scores[:20] - scores[20]) / 20
    sign = 1 if scores[:20].sum() > 0 else -1
    assert sign == (-1 if turned else 1)
    towards = sign * worth
    order = np.argsort(-towards, kind="stable")
    deleted = [sign * (scores[:20].mean() - worth[order[: round(share * 20)]].sum()) for share in SHARES]
    inserted = [sign * (scores[20] + worth[order[: round(share * 20)]].sum()) for share in SHARES]
    expected = [np.trapezoid(1 / (1 + np.exp(-np.array(logits))), SHARES) for logits in (deleted, inserted)]
    assert areas(model, ids, towards) == pytest.approx(expected)
    worst = areas(model, ids, -towards)
    assert worst[0] > expected[0]
    assert worst[1] < expected[1]
    assert mean_areas(model, [ids], 0)[OUT] == pytest.approx(expected)
    assert mean_areas(model, [ids, ids], 0).keys() == {OWN, OUT, GRADIENTS, RANDOM}


def rows(std=0.1, **accuracy):
    found = {method: figures[0] + 3 for method, figures in study.EXERCISE.items()}
    found |= {"rnn 120": 88.0, "gru 64": 90.0, study.LOCAL: 92.0, study.COUNTING: 88.0, study.COUNTING_PAIRS: 91.0}
    found |= accuracy
    made = [Row(method, "accuracy %", value, std, 3) for method, value in found.items()]
    made += [Row(study._reported(name), "accuracy %", study.EXERCISE[name][0], None, 1) for name in study.MAIN]
    for sentence, right in zip(study.SENTENCES, (100.0, 0.0), strict=True):
        made += [Row(m, f"right %: {sentence}", right if m == study.LOCAL else 0.0, 0.0, 3) for m in study.MAIN]
    return made


@pytest.mark.parametrize(
    ("claim", "figures", "held"),
    [
        (ABOVE[0], {}, True),
        (ABOVE[0], {study.RNN: 85.9}, False),
        (ABOVE[0], {"std": 3.0}, False),
        (ABOVE[4], {study.LOCAL: 89.7}, False),
        (BEST, {}, True),
        (BEST, {study.MLP: 92.5}, False),
        (BEST, {study.WEIGHTED: 92.0}, False),
        (GRU_WINS, {}, True),
        (GRU_WINS, {"rnn 120": 91.5}, False),
        (COUNTING, {}, True),
        (COUNTING_PAIRS, {study.COUNTING_PAIRS: 91.95}, False),
        (TURNED, {}, True),
    ],
)
def test_claims_follow_from_the_rows(claim, figures, held):
    assert judge(claim, rows(**figures)).held is held


def test_the_tale_of_the_two_sentences_has_to_be_as_it_is_told():
    made = [row for row in rows() if not (row.method == study.GRU and row.metric.startswith("right %: Not"))]
    made.append(Row(study.GRU, "right %: Not what I expected", 100.0, 0.0, 3))
    assert not judge(TURNED, made).held
    assert judge(GRU_WINS, rows()).measured == "64: +3.0, 120: +3.0"


@pytest.mark.parametrize(
    ("seconds", "reviews", "measured", "held"),
    [
        (59.9, 25_000, "59.9 s", True),
        (60.0, 25_000, "60 s", False),
        (4.0, 2000, "50 s, in proportion to 4 s on 2,000", True),
        (5.0, 2000, "62.5 s, in proportion to 5 s on 2,000", False),
    ],
)
def test_the_time_of_an_epoch_is_that_of_all_reviews(seconds, reviews, measured, held):
    made = [Row(study.MLP, "training seconds an epoch", seconds, 0.1, 3)]
    verdict = judge(FAST, [*made, Row("training file", "reviews learned from", float(reviews), None, 1)])
    assert (verdict.measured, verdict.held) == (measured, held)


def test_a_tiny_run_gives_every_model_its_rows(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        labels = [i % 2 for i in range(60)]
        texts = [" ".join(rng.choice(["a", "film", "not", "so"], 25)) + (" good" if y else " bad") for y in labels]
        (tmp_path / "data/imdb").mkdir(parents=True, exist_ok=True)
        table = pyarrow.table({"id": texts, "text": texts, "label": labels})
        pyarrow.parquet.write_table(table, tmp_path / f"data/imdb/{part}.parquet")
    monkeypatch.setitem(study.SIZES, "small", study.Size(40, 1, 16, (64, 120), ((64, 32, 16),), (5,), explained=2))
    stages = set()
    context = Context(
        data=tmp_path / "data",
        seeds=(0, 1),
        budget="small",
        out=tmp_path / "out",
        progress=lambda stage, done, total: stages.add(stage),
    )
    result = run_study(study.STUDY, context)
    found = {(row.method, row.metric): row for row in result.rows}
    for method in (*study.MAIN, "rnn 120", "gru 64", study.UNPLACED, study.COUNTING):
        for metric in (*study.METRICS, "negations right %", "plain twins right %", "negations right %, 8 words apart"):
            assert 0 <= found[method, metric].mean <= 100
    assert found[study.COUNTING, "accuracy %"].mean == 100
    assert found[study.COUNTING, "accuracy %"].n == 1
    assert found[study.LOCAL, "accuracy %"].n == 2
    assert found[study.GRU, "deletion area, leave-one-out"].mean > 0
    assert found[study.GRU, "training tokens/s"].mean > 0
    assert found[study._reported(study.LOCAL), "F1 %"].mean == 87.3
    assert (study.LOCAL, f"logit by word 3: {next(iter(study.SENTENCES))}") in found
    assert found["training file", "reviews learned from"].mean == 40
    assert len(result.claims) == 11
    assert (tmp_path / "out" / "token_scores.png").stat().st_size > 1000
    assert {"models, seed 1", "train, gru 120, seed 0"} <= stages
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 2 + 2 * 8
