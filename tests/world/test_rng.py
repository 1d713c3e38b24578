"""The draws are SplitMix64's, and the same one by one as in blocks."""

from exnihilo.world.rng import GOLDEN, Draws, block, mix, stream


def test_reference_values() -> None:
    # the published first outputs of SplitMix64 for the seed 1234567
    assert block(1234567, 0, 5) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_random_access() -> None:
    key = stream(3, 1, 4)
    whole = block(key, 0, 300)
    assert block(key, 128, 50) == whole[128:178]
    assert [mix(key + (k + 1) * GOLDEN) for k in range(300)] == whole


def test_streams_differ() -> None:
    keys = {stream(seed, purpose, i) for seed in range(10) for purpose in range(10) for i in range(100)}
    assert len(keys) == 10_000


def test_below_is_uniform() -> None:
    draws = Draws(5)
    n, k = 60_000, 6
    counts = [0] * k
    for _ in range(n):
        counts[draws.below(k)] += 1
    chi2 = sum((c - n / k) ** 2 / (n / k) for c in counts)
    assert chi2 < 20.5  # 99.9% of chi-square with 5 degrees of freedom


def test_shuffle_keeps_and_mixes() -> None:
    draws = Draws(1, 2)
    first = [draws.shuffled(range(4))[0] for _ in range(4000)]
    assert sorted(draws.shuffled(range(50))) == list(range(50))
    assert all(850 < first.count(i) < 1150 for i in range(4))  # 1000 +- 5.5 standard deviations
