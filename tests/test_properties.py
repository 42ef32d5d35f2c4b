"""Properties that must hold for any input, tried on random ones."""
import json, math
from functools import lru_cache
from random import Random
from types import SimpleNamespace as NS
import torch
from hypothesis import given, settings, strategies as st
from tmpq_dm.evaluation.cost import BitOPs
from tmpq_dm.models.trace import QuantOp
from tmpq_dm.analysis.grouping import equal_groups, quadratic_groups, uniform_groups
from tmpq_dm.policy import BITS, Policy
from tmpq_dm.core.errors import TmpqError
from tmpq_dm.quantization.grid import OBSERVERS, WeightSets, levels, pack, unpack
from tmpq_dm.searching.budget import repair, spend
from tmpq_dm.searching.record import from_line, to_line
from tmpq_dm.searching.space import SearchSpace

settings.register_profile("tmpq", deadline=None)   # a slow machine is not a failure
settings.load_profile("tmpq")

NAMES = ["a", "b.c", "b.c.qk"]
pairs = st.tuples(st.sampled_from(BITS), st.sampled_from(BITS))
tables = st.fixed_dictionaries({n: pairs for n in NAMES})
seeds = st.integers(0, 2**31)
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=5)      # what a file of ours may hold
scalars = st.none() | st.booleans() | st.integers(-10**29, 10**29) | texts
containers = lambda x: st.lists(x, max_size=3) | st.dictionaries(texts, x, max_size=3)
json_values = st.recursive(scalars, containers)


@st.composite
def policies(draw):
    ts = tuple(sorted(draw(st.sets(st.integers(0, 999), min_size=1, max_size=30)), reverse=True))
    some = tuple(draw(st.lists(tables, min_size=1, max_size=3)))
    schedule = tuple(draw(st.integers(0, len(some) - 1)) for _ in ts)
    return Policy(ts, some, schedule, draw(st.text("0123456789abcdef", max_size=16)))


@given(policies())
def test_policy_round_trip(p):
    assert Policy.from_dict(json.loads(json.dumps(p.to_dict()))) == p


@settings(max_examples=500)
@given(json_values, st.sampled_from(["timesteps", "tables", "schedule", "format_version", "surprise"]), policies())
def test_a_wrong_policy_raises_nothing_but_our_error(value, field, p):
    try: Policy.from_dict(p.to_dict() | {field: value})
    except TmpqError as e: assert "\n" not in str(e)


@given(st.integers(1, 100), st.sampled_from([100, 999, 1000, 4000]))
def test_groups_partition_the_timesteps(n, num_train):
    for groups in (quadratic_groups(n, num_train), uniform_groups(n, num_train)):
        assert len(groups) == n and groups[0][0] == 0 and groups[-1][1] == num_train
        assert all(lo < hi for lo, hi in groups) and all(a[1] == b[0] for a, b in zip(groups, groups[1:]))


@given(st.lists(st.floats(0.01, 10), min_size=50, max_size=200), st.integers(1, 20))
def test_equal_groups_partition_the_timesteps(rate, n):
    groups = equal_groups(torch.tensor(rate).numpy(), n)
    assert len(groups) == n and groups[0][0] == 0 and groups[-1][1] == len(rate)
    assert all(lo < hi for lo, hi in groups) and all(a[1] == b[0] for a, b in zip(groups, groups[1:]))


@lru_cache
def spaces():
    op = lambda name, kind, macs: QuantOp(name, kind, name, "plain", macs, () if kind == "qk" else (4, 4), 16)
    ops = [op("a", "conv", 1000), op("b.c", "linear", 70), op("b.c.qk", "qk", 333)]
    net = NS(ops=ops, bits=(2, 4, 5, 8), fingerprint="f", num_train_timesteps=1000)
    grouped = SearchSpace(net, quadratic_groups(10))
    fewer_steps = SearchSpace(net, quadratic_groups(12), steps=(3, 12))
    crowded = SearchSpace(net, quadratic_groups(8), steps=(3, 12), per_group=2, samplers=("ddim", "dpm++", "heun"))
    free = SearchSpace(net, steps=(2, 7), segments=2)
    return grouped, fewer_steps, crowded, free


@given(seeds)
def test_genome_and_policy(seed):
    rng = Random(seed)
    for s in spaces():
        a, b = s.random(rng), s.random(rng)
        for g in (a, s.mutate(a, rng.random(), rng), s.crossover(a, b, rng), s.nudge(a, rng)):
            assert s.encode(s.decode(g)) == g


@given(seeds, st.floats(1, 30))
def test_repair_and_spend_keep_the_budget(seed, factor):
    rng = Random(seed)
    for s in spaces():
        cost = BitOPs(s.net)
        budget = int(factor * cost(s.decode(s.cheapest())))
        g = repair(s, s.random(rng), budget, cost, rng)
        assert cost(s.decode(g)) <= cost(s.decode(spend(s, g, budget, cost, rng))) <= budget


@given(st.integers(2, 8), st.lists(st.integers(1, 5), min_size=1, max_size=4), seeds)
def test_packing(bits, shape, seed):
    lo, hi = levels(bits, signed=True)
    codes = torch.randint(lo, hi + 1, shape, generator=torch.Generator().manual_seed(seed)).float()
    packed = pack(codes, bits)
    assert packed.numel() == math.ceil(codes.numel() * bits / 8)
    assert torch.equal(unpack(packed, bits, tuple(shape)), codes)


@given(st.sampled_from(sorted(OBSERVERS)), st.integers(2, 8), st.booleans(), st.booleans(), st.floats(-3, 3), seeds)
@settings(deadline=None)
def test_quantizer_error_bound(observer, bits, symmetric, per_channel, power, seed):
    x = torch.randn(4, 33, generator=torch.Generator().manual_seed(seed)) * 10**power
    g = OBSERVERS[observer](x, bits, symmetric, per_channel)
    low, high = (g.lo - g.zero) * g.scale, (g.hi - g.zero) * g.scale
    error, inside = (g(x) - x).abs(), (x >= low) & (x <= high)
    assert (error <= g.scale/2 * 1.001)[inside].all()
    assert torch.allclose(g(x)[~inside], torch.where(x < low, low, high)[~inside]) and (g(torch.zeros(4, 1)) == 0).all()
    codes = g.codes(x)
    assert torch.equal(codes, codes.round()) and codes.min() >= g.lo and codes.max() <= g.hi


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_deciding_one_precision_leaves_the_others(seed):
    gen = torch.Generator().manual_seed(seed)
    w = WeightSets(torch.randn(3, 5, generator=gen), (8, 5, 3, 2))
    before = {b: w.hard(b) for b in w.bits}
    up = torch.rand(3, 5, generator=gen) < 0.5
    w.decide(5, up)
    assert all(torch.equal(before[b], w.hard(b)) for b in (8, 3, 2))
    assert torch.equal(w.codes(5), (w.ratio(5).floor() + up).clamp(*levels(5, True)))


numbers = st.integers(-10**29, 10**29) | st.floats(allow_nan=False, allow_infinity=False)
entries = st.dictionaries(texts, numbers, max_size=4)


@given(entries, st.integers(0, 200), st.integers(1, 255))
def test_a_changed_line_of_the_record_is_noticed(entry, at, flip):
    line = to_line(entry).encode()
    assert from_line(line.decode()) == entry
    at %= len(line)
    bad = (line[:at] + bytes([line[at] ^ flip]) + line[at+1:]).decode(errors="replace")
    assert from_line(bad) is None or bad[:8].lower() == line.decode()[:8]
