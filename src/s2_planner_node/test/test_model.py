"""The model gives the reference's numbers, with and without its caches."""

import copy

import numpy as np
import pytest
import torch

from s2_planner_node.decoder import KVCache, choose_attention
from s2_planner_node.model import FeatureCache, S2Model
from s2_planner_node.sequence import ImageRef, rope_positions, token_sequence

IMAGE, END = 290, 297  # of conftest's TINY_CONFIG


def test_small_model_gives_the_reference_numbers_stage_by_stage(parity_model):
    case, model = parity_model
    grids = [tuple(map(int, grid)) for grid in case.inputs["image_grid_thw"]]
    encoded = model.encode_images(case.inputs["pixel_values"], grids)
    case.check("image_embeds", torch.cat(encoded), strict=True)
    features = dict(enumerate(encoded))
    images = [ImageRef(number, grid) for number, grid in enumerate(grids)]
    prompt = token_sequence(case.inputs["input_ids"][0], images, model.image_token_id, model.merge_size)
    case.check("position_ids", prompt.positions[:, None])
    assert prompt.next_position - len(prompt) == case.expected("rope_deltas").item()
    case.check("hidden_embed", model._embed(prompt, features, 0), strict=True)
    hidden = model.hidden_states(prompt, features)
    case.check("hidden_final", hidden, strict=True)
    logits = model.logits(hidden)
    case.check("prefill_last_logits", logits[0, -1], strict=True)
    case.check("prefill_logits_every64", logits[0, :, ::64], strict=True)
    case.check("prefill_argmax", logits.argmax(-1))
    generated = model.generate(prompt, features, 16)
    case.check("generated_ids", np.array([generated]))
    answered = prompt.extended(generated)
    case.check("sequences", answered.ids[None])
    case.check("latents_position_ids", answered.extended([0] * 4).positions[:, None])
    case.check("latents", model.traj_latents(answered, features), strict=True)
    case.check("latents_from_prompt_only", model.traj_latents(prompt, features), strict=True)


def images_and_features(model, rng, grids, first_id=0):
    patches = rng.standard_normal((sum(r * c for _, r, c in grids), 3 * 2 * 14 * 14)).astype(np.float32)
    images = [ImageRef(first_id + number, grid) for number, grid in enumerate(grids)]
    encoded = model.encode_images(patches, grids)
    return patches, images, {image.image_id: x for image, x in zip(images, encoded, strict=True)}


def prompt_ids(rng, num_images, words=7):
    ids = list(map(int, rng.integers(0, 280, words)))
    for _ in range(num_images):
        ids += [292, IMAGE, 293, int(rng.integers(0, 280))]
    return ids + list(map(int, rng.integers(0, 280, 3)))


@pytest.mark.parametrize("grids", [[(1, 28, 28)], [(1, 34, 46), (1, 8, 8), (1, 34, 46)], [(1, 2, 18), (1, 10, 6)]])
def test_image_features_equal_transformers_own_vision_tower(tiny_model, tiny_network, rng, grids):
    model = tiny_model()
    patches, _, features = images_and_features(model, rng, grids)
    with torch.no_grad():
        reference = tiny_network.model.visual(torch.from_numpy(patches), grid_thw=torch.tensor(grids)).pooler_output
    assert torch.allclose(torch.cat(list(features.values())), reference, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_answers_equal_transformers_generate(tiny_model, tiny_network, rng, penalty):
    model = tiny_model(repetition_penalty=penalty)
    grids = [(1, 8, 12), (1, 10, 6)]
    patches, images, features = images_and_features(model, rng, grids)
    prompt = model.sequence(prompt_ids(rng, 2), images)
    ids = torch.from_numpy(prompt.ids)[None]
    reference = tiny_network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == IMAGE).int(),
        pixel_values=torch.from_numpy(patches),
        image_grid_thw=torch.tensor(grids),
        do_sample=False,
        max_new_tokens=24,
        eos_token_id=END,
        pad_token_id=0,
        repetition_penalty=penalty,
    )[0, len(prompt) :]
    assert model.generate(prompt, features, 24) == reference.tolist()


def test_the_repetition_penalty_changes_the_answer(tiny_model, rng):
    plain, penalised = tiny_model(), tiny_model(repetition_penalty=1.3)
    _, images, features = images_and_features(plain, rng, [(1, 8, 8)])
    prompt = plain.sequence(prompt_ids(rng, 1), images)
    assert plain.generate(prompt, features, 24) != penalised.generate(prompt, features, 24)


def test_decoding_stops_at_the_end_of_turn(tiny_model, rng):
    free = tiny_model(end_token_ids=[])
    _, images, features = images_and_features(free, rng, [(1, 8, 8)])
    prompt = free.sequence(prompt_ids(rng, 1), images)
    tokens = free.generate(prompt, features, 12)
    assert len(tokens) == 12
    stop = tokens[5]
    assert tiny_model(end_token_ids=[stop]).generate(prompt, features, 12) == tokens[: tokens.index(stop) + 1]


def relative(a, b):
    return float((a - b).norm() / b.norm())


def test_what_shares_a_prefix_continues_the_cache_and_equals_full_recomputation(tiny_model, rng):
    cached, full = tiny_model(), tiny_model(reuse_cache=False)
    ids = prompt_ids(rng, 3, words=40)
    _, images, features = images_and_features(cached, rng, [(1, 12, 8)] * 3)
    sequences = [cached.sequence(ids, images)]
    sequences.append(sequences[0].extended([5, 6, 7]))  # a continuation
    swapped = [images[0], images[2], images[1]]
    sequences.append(cached.sequence(ids, swapped))  # same tokens, other images: shared up to the second image
    sequences.append(sequences[0])
    computed = []
    for sequence in sequences:
        ours, reference = cached.hidden_states(sequence, features), full.hidden_states(sequence, features)
        computed.append(ours.shape[1])
        assert reference.shape[1] == len(sequence)
        assert relative(ours, reference[:, -ours.shape[1] :]) < 1e-5
        assert relative(cached.traj_latents(sequence, features), full.traj_latents(sequence, features)) < 1e-5
    length = len(sequences[0])
    second_image = int(np.flatnonzero(sequences[0].identity[:, 0] == images[1].image_id)[0])
    assert computed == [length, 3, length - second_image, length - second_image]


def test_cached_images_need_no_features(tiny_model, rng):
    model = tiny_model()
    _, images, features = images_and_features(model, rng, [(1, 8, 8)])
    sequence = model.sequence(prompt_ids(rng, 1), images)
    model.hidden_states(sequence, features)
    model.hidden_states(sequence.extended([3]), {})
    model.forget()
    with pytest.raises(ValueError, match="features of image 0 are missing"):
        model.hidden_states(sequence, {})


def test_latents_after_an_answer_compute_only_the_last_token_and_the_queries(tiny_model, rng):
    model = tiny_model(end_token_ids=[])
    _, images, features = images_and_features(model, rng, [(1, 8, 8)])
    prompt = model.sequence(prompt_ids(rng, 1), images)
    answered = prompt.extended(model.generate(prompt, features, 5))
    assert model.cached_tokens == len(answered) - 1
    seen = []
    run = model._decoder.run
    model._decoder.run = lambda embeddings, *rest: seen.append(embeddings.shape[1]) or run(embeddings, *rest)
    model.traj_latents(answered, features)
    assert seen == [1 + 4]
    assert model.cached_tokens == len(answered)  # the queries are gone again


def test_bad_input_raises_with_expected_and_actual(tiny_model, rng):
    model = tiny_model()
    _, images, features = images_and_features(model, rng, [(1, 8, 8)])
    with pytest.raises(ValueError, match="2 image placeholders for 1 images"):
        model.sequence([1, IMAGE, IMAGE], images)
    with pytest.raises(ValueError, match="empty"):
        model.sequence([], [])
    sequence = model.sequence([1, IMAGE, 2], images)
    with pytest.raises(ValueError, match=r"\(3, 32\), expected \(16, 32\)"):
        model.hidden_states(sequence, {0: torch.zeros(3, 32)})
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        model.generate(sequence, features, 0)
    with pytest.raises(ValueError, match="the model takes 4096"):
        model.hidden_states(sequence.extended([1] * 5000), features)
    with pytest.raises(ValueError, match=r"\(4, 1176\), expected \(16, 1176\)"):
        model.encode_images(np.zeros((4, 1176), np.float32), [(1, 4, 4)])
    with pytest.raises(ValueError, match="multiples of 2"):
        model.encode_images(np.zeros((15, 1176), np.float32), [(1, 3, 5)])
    with pytest.raises(ValueError, match="interrupted"):
        rope_positions(np.array([IMAGE, 1, IMAGE, IMAGE, IMAGE]), [(1, 4, 4)], IMAGE, 2)
    with pytest.raises(FloatingPointError, match="not finite"):
        model.generate(sequence, {0: torch.full((16, 32), float("nan"))}, 3)


def test_a_checkpoint_without_latent_queries_gives_no_latents(tiny_network, rng):
    model = S2Model(tiny_network, None, end_token_ids=[END])
    with pytest.raises(ValueError, match="no latent_queries"):
        model.traj_latents(model.sequence([1, 2], []), {})


def test_the_feature_cache_is_bounded_and_drops_what_was_not_used_for_longest():
    cache = FeatureCache(2)
    cache.put(1, torch.zeros(1))
    cache.put(2, torch.zeros(1))
    assert cache.get(1) is not None
    cache.put(3, torch.zeros(1))
    assert cache.get(2) is None
    assert cache.get(1) is not None
    assert len(cache) == 2
    with pytest.raises(ValueError, match="must not be negative"):
        FeatureCache(-1)


def test_a_cache_cannot_be_cut_to_more_than_it_holds():
    with pytest.raises(ValueError, match="0 positions to 3"):
        KVCache(1).crop(3)


def test_flash_attention_is_a_wish_that_is_checked_and_never_required():
    cpu = torch.device("cpu")
    assert choose_attention("auto", cpu, torch.float32) == "sdpa"
    with pytest.raises(ValueError, match="flash_attention_2"):
        choose_attention("flash_attention_2", cpu, torch.float32)
    with pytest.raises(ValueError, match="expected one of"):
        choose_attention("fast", cpu, torch.float32)


def test_bfloat16_stays_close_to_float32(rng, tiny_config, make_network):
    network = make_network(tiny_config)
    queries = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(1))
    exact = S2Model(network, queries, end_token_ids=[END])
    patches, images, features = images_and_features(exact, rng, [(1, 8, 8)])
    sequence = exact.sequence(prompt_ids(rng, 1), images)
    reference = exact.traj_latents(sequence, features)
    rounded = S2Model(copy.deepcopy(network).bfloat16(), queries.bfloat16(), end_token_ids=[END])
    encoded = dict(enumerate(rounded.encode_images(patches, [(1, 8, 8)])))
    latents = rounded.traj_latents(sequence, encoded)
    assert latents.dtype == torch.float32
    assert relative(latents, reference) < 0.1  # bf16 has 8 bits; measured 0.02
