"""Do the scores of words tell the truth? Words are taken away, or given, in the order of their scores.

    deletion   P(the class predicted for the whole text) while its words become unknown, the strongest first
    insertion  the same while an unknown text is uncovered, the strongest first

The area under a curve, over the share of words from 0 to 1, is small for deletion and large for insertion where the
order is right. An unknown word stands in for one that is taken away, so that the places of the others do not change; it
is the baseline of integrated gradients, too. The own score of the first word of a recurrent model holds the bias of the
answer, which moves that word in the order. The study of token scores asks reviews of 20 to 200 tokens alone, so that
nothing is said of longer ones. Source: Petsiuk, Das, Saenko 2018, arXiv 1806.07421 (the curves);
Sundararajan, Taly, Yan 2017, arXiv 1703.01365 (integrated gradients, here captum's).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from weigher.tokens.token_scores import TokenScorer

OWN, OUT, GRADIENTS, RANDOM = "own scores", "leave-one-out", "integrated gradients", "random order"
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)


def attributions(
    model: TokenScorer, ids: np.ndarray, rng: np.random.Generator, steps: int = 32
) -> dict[str, np.ndarray]:
    """Return what each way says that the words of one text add to the logit, [t] each.

    own scores: w_t s_t. leave-one-out: the logit minus that with word t unknown. Integrated gradients: from a text of
    unknown words, over `steps` points, summed over the channels of a word.
    """
    import torch
    from captum.attr import IntegratedGradients

    tokens, unknown = torch.from_numpy(ids)[None], model.embedding.num_embeddings - 1
    length = torch.tensor([len(ids)])
    with torch.no_grad():
        found = model(tokens, length)
        without = tokens.repeat(len(ids), 1).masked_fill(torch.eye(len(ids), dtype=torch.bool), unknown)
        left_out = found.logits - model(without, length.repeat(len(ids))).logits
        words, nothing = model.embedding(tokens), model.embedding(torch.full_like(tokens, unknown))
    gradients = IntegratedGradients(lambda x, lengths: model.read(x, lengths).logits)
    along = gradients.attribute(words, nothing, additional_forward_args=(length,), n_steps=steps)
    return {
        OWN: (found.weights * found.scores)[0].double().numpy(),
        OUT: left_out.double().numpy(),
        GRADIENTS: along.sum(-1)[0].detach().double().numpy(),
        RANDOM: rng.normal(size=len(ids)),
    }


def areas(model: TokenScorer, ids: np.ndarray, towards: np.ndarray) -> tuple[float, float]:
    """Return the areas under the curves of deletion and insertion in the order of `towards`, largest first.

    `towards` `[t]` says how much each word speaks for the class that the model predicts.
    """
    import torch

    order = np.argsort(-towards, kind="stable")
    unknown = model.embedding.num_embeddings - 1
    deleted, inserted = (np.tile(row, (len(SHARES), 1)) for row in (ids, np.full_like(ids, unknown)))
    for row, share in enumerate(SHARES):
        strongest = order[: round(share * len(ids))]
        deleted[row, strongest] = unknown
        inserted[row, strongest] = ids[strongest]
    rows = torch.from_numpy(np.concatenate([deleted, inserted]))
    with torch.no_grad():
        logits = model(rows, torch.full((len(rows),), len(ids))).logits.double()
    predicted = torch.sigmoid(logits if logits[0] > 0 else -logits).numpy()
    first, second = np.split(predicted, 2)
    return float(np.trapezoid(first, SHARES)), float(np.trapezoid(second, SHARES))


def mean_areas(model: TokenScorer, texts: Sequence[np.ndarray], seed: int) -> dict[str, tuple[float, float]]:
    """Return the mean areas of deletion and insertion over texts (ids, not empty) for each way of attributing."""
    import torch

    rng = np.random.default_rng([seed, 2])
    found: dict[str, list[tuple[float, float]]] = {}
    for ids in texts:
        with torch.no_grad():
            logit = model(torch.from_numpy(ids)[None], torch.tensor([len(ids)])).logits.item()
        for way, values in attributions(model, ids, rng).items():
            found.setdefault(way, []).append(areas(model, ids, values if logit > 0 else -values))
    return {
        way: (float(np.mean([a for a, _ in both])), float(np.mean([b for _, b in both]))) for way, both in found.items()
    }
