"""A user's picture: reading it, preparing it as the network was trained, and every way in which a file is wrong."""

import pickle
import sys
import types

import pytest
import safetensors.torch
import torch
from torch.testing import assert_close
from torchvision_cpu import models as torchvision_models

from fastcnn.models import lenet5, resnet20_cifar
from fastcnn.workbench import classify, demo, train

Image = pytest.importorskip("PIL.Image")
np = pytest.importorskip("numpy")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def digits():
    return train.load_digits()


@pytest.fixture(scope="module")
def weights(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lenet5.safetensors"
    demo.save_weights(train.train(digits, train.Recipe(epochs=6)), path)
    return path


@pytest.fixture
def two(digits, tmp_path):
    path = tmp_path / "two.png"
    demo.save_digit(digits.held_out_images[digits.held_out_labels == 2][:1], path)
    return path


def picture(path, height=40, width=60, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_digits_read_from_pictures_are_those_read_directly(digits, weights, tmp_path):
    model = lenet5(weights=weights).eval()
    direct = model.predict(digits.held_out_images[:60])
    path = tmp_path / "digit.png"
    agree = 0
    for image, expected in zip(digits.held_out_images[:60], direct, strict=True):
        demo.save_digit(image[None], path)
        agree += classify.classify(path, "lenet5", weights, top=1).guesses[0].number == expected
    assert agree >= 54


def test_ink_may_be_dark_or_light_transparent_16_bit_or_in_a_corner(two, weights, tmp_path):
    dark = Image.open(two)
    inverted = Image.fromarray(255 - np.asarray(dark))
    transparent = Image.new("RGBA", dark.size, (0, 0, 0, 0))
    transparent.putalpha(inverted)
    cornered = Image.new("L", (700, 500), 255)
    cornered.paste(dark, (430, 10))
    deep = Image.fromarray(np.asarray(dark).astype(np.uint16) * 257)
    expected = classify.classify(two, "lenet5", weights)
    assert expected.guesses[0].name == "2"
    for name, image in {"inverted": inverted, "transparent": transparent, "cornered": cornered, "deep": deep}.items():
        path = tmp_path / f"{name}.png"
        image.save(path)
        result = classify.classify(path, "lenet5", weights)
        assert result.guesses[0].name == "2", name
        assert_close(result.guesses[0].score, expected.guesses[0].score, rtol=0.1, atol=0.5)


def test_the_smallest_distance_comes_first(two, weights):
    result = classify.classify(two, "lenet5", weights, top=10)
    scores = [guess.score for guess in result.guesses]
    assert scores == sorted(scores)
    assert len({guess.number for guess in result.guesses}) == 10
    assert "distance" in result.measure


def test_a_picture_of_one_colour_holds_no_digit(weights, tmp_path):
    Image.new("RGB", (50, 50), "white").save(tmp_path / "blank.png")
    with pytest.raises(ValueError, match="no digit in it"):
        classify.classify(tmp_path / "blank.png", "lenet5", weights)


def torchvisions_input(image, size=224):
    assert torchvision_models
    from torchvision import transforms

    steps = [transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size), transforms.ToTensor()]
    steps.append(transforms.Normalize(classify.IMAGENET_MEAN, classify.IMAGENET_STD))
    return transforms.Compose(steps)(image.convert("RGB"))[None]


# Fifty sizes: each remainder of the halves that are cropped, both orientations, smaller and larger than the target.
SIZES = [(7 + 37 * i % 611, 5 + 53 * i % 787) for i in range(46)] + [(224, 224), (256, 257), (1, 500), (1001, 3)]


@pytest.mark.parametrize("size", [224, 32])
def test_pictures_are_prepared_as_torchvision_does_to_the_last_bit(size):
    generator = np.random.default_rng(0)
    assert len(set(SIZES)) == 50
    for height, width in SIZES:
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        prepared = classify.imagenet_input(image, size)
        assert torch.equal(prepared, torchvisions_input(image, size)), (height, width)
        assert prepared.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_opaque_modes_are_converted_as_torchvision_does(mode):
    pixels = np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    assert torch.equal(classify.imagenet_input(image), torchvisions_input(image))


def saved(array, path, **options):
    Image.fromarray(array).save(path, **options)
    return classify.to_rgb(classify.read_picture(path))


def test_deep_and_floating_point_pictures_keep_their_levels(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (9, 13), dtype=np.uint8)
    grey[0, :2] = 0, 255
    expected = np.repeat(grey[..., None], 3, 2)
    for name, array in {
        "16.png": grey.astype(np.uint16) * 257,
        "16.tif": grey.astype(np.uint16) * 257,
        "32.tif": grey.astype(np.int32) * 257,
        "32-levels.tif": grey.astype(np.int32),
        "share.tif": (grey / 255).astype(np.float32),
        "levels.tif": grey.astype(np.float32),
    }.items():
        assert np.array_equal(np.asarray(saved(array, tmp_path / name)), expected), name
    dark = saved(np.full((4, 4), 200, np.uint16), tmp_path / "dark.tif")
    assert np.asarray(dark).max() == 1  # 200 of 65535, not of 255
    for value, words in ((np.nan, "nan"), (np.inf, "inf"), (-1, "-1"), (300, "300")):
        with pytest.raises(ValueError, match=f"its values run from .*{words}"):
            saved(np.full((2, 2), value, np.float32), tmp_path / "bad.tif")


def test_transparent_parts_are_white(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (8, 6, 4), dtype=np.uint8)
    alpha = colours[..., 3:] / 255
    shown = np.asarray(saved(colours, tmp_path / "alpha.png"))
    assert np.abs(shown - (colours[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1
    palette = Image.fromarray(colours[..., :3]).quantize(16)
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((0, 0)))
    assert classify.to_rgb(classify.read_picture(tmp_path / "palette.png")).getpixel((0, 0)) == (255, 255, 255)


def test_what_cannot_be_shown_or_resized_is_refused():
    with pytest.raises(ValueError, match="its mode La cannot be shown"):
        classify.imagenet_input(Image.new("La", (5, 5)))
    with pytest.raises(ValueError, match="1 x 9000000 pixels are too thin a strip"):
        classify.imagenet_input(Image.new("L", (1, 9_000_000)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_every_colour_mode_is_read(mode, tmp_path):
    name = "picture.tif" if mode == "CMYK" else "picture.png"
    input = classify.imagenet_input(classify.read_picture(picture(tmp_path / name, mode=mode)))
    assert input.shape == (1, 3, 224, 224)
    assert input.isfinite().all()


def test_exif_orientation_is_followed(tmp_path):
    image = Image.new("RGB", (20, 10), "black")
    image.paste((255, 255, 255), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: left becomes top
    image.save(tmp_path / "turned.jpg", exif=exif)
    upright = np.asarray(classify.read_picture(tmp_path / "turned.jpg").convert("L"))
    assert upright.shape == (20, 10)
    assert upright[2, 5] > 200
    assert upright[17, 5] < 50


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_probabilities_and_class_numbers(suffix, tmp_path):
    torch.manual_seed(0)
    model = resnet20_cifar(num_classes=7)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(model.state_dict(), path)
    else:
        safetensors.torch.save_file(model.state_dict(), path)
    image = picture(tmp_path / "picture.jpg")
    result = classify.classify(image, "resnet20_cifar", path, top=9, num_classes=7)
    with torch.inference_mode():
        expected = model.eval()(classify.imagenet_input(classify.read_picture(image), 32))[0].softmax(0)
    assert [guess.number for guess in result.guesses] == expected.argsort(descending=True).tolist()
    assert_close(sum(guess.score for guess in result.guesses), 1.0, rtol=1e-5, atol=1e-5)
    assert result.guesses[0].name == f"class {result.guesses[0].number}"
    assert "7 classes" in result.note


def test_googlenet_in_torchvisions_form_reads_pictures_as_torchvision_feeds_its_weights(tmp_path):
    with torch.no_grad():
        twin = torchvision_models.googlenet(num_classes=4, init_weights=False, transform_input=True).eval()
        for module in twin.modules():
            if isinstance(module, torch.nn.Conv2d):  # so that signals neither die out nor drown in the biases
                torch.nn.init.kaiming_normal_(module.weight)
    safetensors.torch.save_file(twin.state_dict(), tmp_path / "weights.safetensors")
    image = picture(tmp_path / "picture.png", 80, 60)
    result = classify.classify(image, "googlenet", tmp_path / "weights.safetensors", top=4)
    with torch.inference_mode():
        expected = twin(torchvisions_input(Image.open(image)))[0].softmax(0)
    for guess in result.guesses:
        assert_close(guess.score, expected[guess.number].item(), rtol=1e-3, atol=1e-4)


def test_imagenet_names_come_from_torchvision(monkeypatch):
    names = [f"name {i}" for i in range(1000)]
    models = types.ModuleType("torchvision.models")
    entry = types.SimpleNamespace(meta={"categories": names})
    models.ResNet50_Weights = types.SimpleNamespace(IMAGENET1K_V1=entry)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    assert classify.class_names(1000) == (names, "")
    assert "10 classes" in classify.class_names(10)[1]


def test_without_torchvision_classes_are_numbers(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    names, note = classify.class_names(1000)
    assert names[7] == "class 7"
    assert "torchvision" in note


def test_wrong_pictures_are_refused_in_a_sentence(weights, two, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "half.png").write_bytes(two.read_bytes()[:600])
    for name, message in {
        "text.png": "is not a picture in a format that Pillow knows",
        "empty.png": "is not a picture in a format that Pillow knows",
        "half.png": "cannot read .*half.png: ",
        "missing.png": "cannot read .*missing.png: No such file",
        ".": "cannot read .*: Is a directory",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            classify.classify(tmp_path / name, "lenet5", weights)
        assert "\n" not in str(caught.value)


class Harm:
    ran = False

    def __reduce__(self):
        return exec, ("from tests import test_classify; test_classify.Harm.ran = True",)


def test_wrong_weights_are_refused_in_a_sentence(two, weights, tmp_path):
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "weights.txt").write_text("no weights")
    (tmp_path / "harm.pth").write_bytes(pickle.dumps(Harm(), protocol=2))
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file(resnet20_cifar().state_dict(), other)
    for path, message in {
        tmp_path / "text.safetensors": "cannot read",
        tmp_path / "weights.txt": "expected .safetensors, .pth, .pt or .bin",
        tmp_path / "harm.pth": "cannot read",
        tmp_path / "missing.pth": "no file",
        other: "does not fit LeNet5: missing keys",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            classify.classify(two, "lenet5", path)
        assert "\n" not in str(caught.value)
    assert not Harm.ran


def test_wrong_names_and_numbers_are_refused(two, weights):
    with pytest.raises(ValueError, match="unknown model 'lenet6'"):
        classify.classify(two, "lenet6", weights)
    with pytest.raises(ValueError, match="unknown variant 'newest'"):
        classify.classify(two, "lenet5", weights, variant="newest")
    with pytest.raises(ValueError, match="top is 0; at least 1"):
        classify.classify(two, "lenet5", weights, top=0)
