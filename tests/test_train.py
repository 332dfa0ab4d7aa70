"""The digits and the recipe: what is held out stays held out, a seed decides everything, LeNet-5 learns."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fastcnn.workbench import train

datasets = pytest.importorskip("sklearn.datasets")


@pytest.fixture(scope="module")
def digits():
    return train.load_digits()


def small(digits, count=128):
    return digits._replace(images=digits.images[:count], labels=digits.labels[:count])


def same_weights(one, other):
    return all(torch.equal(one.state_dict()[name], value) for name, value in other.state_dict().items())


def test_a_third_of_every_class_is_held_out(digits):
    assert digits.images.shape == (1198, 1, 32, 32)
    assert digits.held_out_images.shape == (599, 1, 32, 32)
    learnt, held_out = (labels.bincount() for labels in (digits.labels, digits.held_out_labels))
    assert ((held_out / (learnt + held_out) - 1 / 3).abs() < 0.01).all()


def test_each_digit_is_in_one_part(digits):
    counts = datasets.load_digits().data
    assert len(np.unique(counts, axis=0)) == 1797  # no digit occurs twice, so that pictures tell digits apart
    placed = torch.cat([digits.images, digits.held_out_images]).flatten(1).numpy()
    assert len(np.unique(placed.round(3), axis=0)) == 1797


def test_the_split_is_the_same_in_every_run(digits):
    np.random.seed(1)
    torch.manual_seed(1)
    for one, other in zip(digits, train.load_digits(), strict=True):
        assert torch.equal(one, other)


def test_pixels_have_the_papers_values(digits):
    for images in (digits.images, digits.held_out_images):
        assert images.min() == pytest.approx(-0.1)
        assert images.max() == pytest.approx(1.175)
        assert (images[:, :, :4] == images.min()).all()  # a margin of four pixels
        assert (images[:, :, :, -4:] == images.min()).all()


def test_ink_keeps_its_place():
    ink = torch.zeros(1, 1, 8, 8)
    ink[0, 0, 1, 6] = 1  # above, on the right
    row, column = divmod(int(train.place(ink).argmax()), 32)
    assert row in (7, 8, 9)  # 4 + 3 * 1.5 = 8.5 is the middle of the enlarged cell
    assert column in (22, 23, 24)


def test_distortion_moves_a_digit_a_little_and_leaves_the_background(digits):
    images = digits.images[:64]
    distorted = train.distort(images, torch.Generator().manual_seed(0))
    assert distorted.shape == images.shape
    assert distorted.min() >= -0.1001
    assert distorted.max() <= 1.1751
    assert ((distorted - images).abs().amax((1, 2, 3)) > 0.1).all()
    ink, distorted_ink = ((x + 0.1).sum((1, 2, 3)) for x in (images, distorted))
    assert ((distorted_ink / ink).log().abs() < 0.35).all()
    blank = torch.full((4, 1, 32, 32), train.BACKGROUND)
    assert_close(train.distort(blank, torch.Generator().manual_seed(0)), blank)


def test_a_seed_decides_everything(digits):
    recipe = train.Recipe(epochs=1, seed=3)
    torch.manual_seed(0)
    one = train.train(small(digits), recipe)
    torch.manual_seed(1)
    assert same_weights(one, train.train(small(digits), recipe))
    assert not same_weights(one, train.train(small(digits), train.Recipe(epochs=1, seed=4)))


def test_global_random_state_is_left_alone(digits):
    before = torch.get_rng_state()
    train.train(small(digits, 32), train.Recipe(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_held_out_digits_are_never_read(digits):
    recipe = train.Recipe(epochs=1)
    poisoned = small(digits)._replace(
        held_out_images=torch.full_like(digits.held_out_images, torch.nan), held_out_labels=torch.tensor([-1])
    )
    assert same_weights(train.train(small(digits), recipe), train.train(poisoned, recipe))


@pytest.mark.parametrize("variant", ["paper", "modern"])
def test_lenet_learns(digits, variant):
    epochs = []
    model = train.train(digits, train.Recipe(variant, epochs=4), epochs.append)
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert epochs[-1].loss < 0.7 * epochs[0].loss
    assert not model.training
    counts = train.confusion(model, digits.held_out_images, digits.held_out_labels)
    assert train.accuracy(counts) > 0.7


def test_last_batch_may_be_ragged_and_of_one(digits):
    epochs = []
    train.train(small(digits, 33), train.Recipe(epochs=1), epochs.append)
    assert 0 < epochs[0].loss < float("inf")


def test_confusion_counts_by_true_row_and_predicted_column():
    class Always3:
        def predict(self, images):
            return torch.full((len(images),), 3)

    counts = train.confusion(Always3(), torch.zeros(5, 1, 32, 32), torch.tensor([3, 3, 1, 9, 1]))
    assert counts[3, 3] == 2
    assert counts[1, 3] == 2
    assert counts[9, 3] == 1
    assert counts.sum() == 5
    assert train.accuracy(counts) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "train: epochs is 0; at least 1"),
        ({"batch_size": -1}, "train: batch_size is -1; at least 1"),
        ({"learning_rate": 0.0}, "train: learning_rate is 0.0; a positive number"),
        ({"learning_rate": float("nan")}, "train: learning_rate is nan; a positive number"),
    ],
)
def test_wrong_recipes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        train.Recipe(**arguments)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_recipe_reads_97_percent_of_the_held_out_digits(digits, seed):
    model = train.train(digits, train.Recipe(seed=seed))
    assert train.accuracy(train.confusion(model, digits.held_out_images, digits.held_out_labels)) >= 0.97
