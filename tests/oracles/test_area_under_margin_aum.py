"""Area under the margin against the package of its authors."""

import pytest
import torch
from aum import AUMCalculator

from weigher.examples.area_under_margin import AreaUnderMargin


def test_agrees_with_the_package_of_the_authors(tmp_path):
    generator = torch.Generator().manual_seed(0)
    theirs, ours = AUMCalculator(str(tmp_path), compressed=True), AreaUnderMargin(20)
    for _ in range(7):
        order = torch.randperm(20, generator=generator)
        for ids in order.split(5):
            logits, labels = torch.randn(5, 4, generator=generator), torch.randint(4, (5,), generator=generator)
            records = theirs.update(logits, labels, ids.tolist())
            ours.update(logits, labels, ids)
    found = ours.compute()
    for record in records.values():
        assert found[record.sample_id].item() == pytest.approx(record.aum, abs=1e-5)
