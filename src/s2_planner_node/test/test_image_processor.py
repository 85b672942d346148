"""Patches are those of transformers' Qwen2-VL image processor."""

import numpy as np
import pytest

from s2_planner_node.image_processor import ImageProcessor, resize_rgb


def test_patches_and_grids_are_those_of_the_reference(parity):
    load_case, _ = parity
    case = load_case("s2_image_processor")
    processor = ImageProcessor()  # the vector was made with the defaults
    patches, grids = processor([case.inputs["image0_u8"], case.inputs["image1_u8"]])
    case.check("image_grid_thw", np.array(grids))
    case.check("pixel_values", patches)
    case.check("grid_480x640", np.array(processor.grid(480, 640)))
    case.check("grid_384x384", np.array(processor.grid(384, 384)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (476, 644)),
        ((384, 384), (392, 392)),
        ((33, 900), (28, 896)),
        ((1, 5), (28, 140)),
        ((3000, 4000), (840, 1148)),
        ((14, 14), (56, 56)),
    ],
)
def test_image_sizes_are_those_transformers_computes(size, expected):
    assert ImageProcessor().size_for(*size) == expected


def test_settings_come_from_the_checkpoint_in_old_and_new_form():
    old = ImageProcessor.from_config({"min_pixels": 784, "max_pixels": 78400, "patch_size": 14})
    new = ImageProcessor.from_config({"size": {"shortest_edge": 784, "longest_edge": 78400}})
    assert (old.min_pixels, old.max_pixels) == (784, 78400) == (new.min_pixels, new.max_pixels)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32, expected uint8"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\), expected \(height, width, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "non-zero"),
        (np.zeros((1, 300, 3), np.uint8), "aspect ratio"),
        ([[1]], "list"),
    ],
)
def test_a_bad_image_is_refused_with_expected_and_actual(image, message):
    with pytest.raises(ValueError, match=message):
        ImageProcessor()([image])


@pytest.mark.parametrize("values", [{"patch_size": 0}, {"image_std": (0.0, 1.0, 1.0)}, {"min_pixels": 10**9}])
def test_settings_that_cannot_work_are_refused(values):
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        ImageProcessor(**values)


def test_resizing_leaves_the_input_alone_and_skips_equal_sizes(rng):
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    before = image.copy()
    assert resize_rgb(image, 30, 20) is image
    assert resize_rgb(image, 10, 8).shape == (8, 10, 3)
    assert (image == before).all()
