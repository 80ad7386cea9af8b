"""What the runs of a sweep share, and what differs between them."""

import dataclasses

from experiments import muon_stress
from kanana_jax import config
from kanana_jax.train import compare, step


def test_a_seed_moves_initialisation_and_the_order_of_the_data(tmp_path):
    exp = config.edit(muon_stress.experiment(), ["seeds=3", "train.seed=4", "data.seed=9"])
    runs = compare.plan(exp, tmp_path)
    seeds = {(run.exp.train.seed, run.exp.data.seed) for run in runs}
    assert seeds == {(4, 9), (5, 10), (6, 11)}


def test_seeds_and_rates_share_what_is_compiled(tmp_path):
    exp = config.edit(muon_stress.experiment(), ["seeds=3"])
    runs = compare.plan(exp, tmp_path)
    assert len({step.compiled_part(run.exp) for run in runs}) == len(exp.arms)


def test_an_arm_runs_at_its_own_rates_too(tmp_path):
    arms = (config.Arm(name="a", edits=(), lrs=(0.001,)), config.Arm(name="b", edits=()))
    exp = dataclasses.replace(muon_stress.experiment(), arms=arms, lrs=(0.02, 0.06))
    found = [(run.arm, run.exp.optimizer.lr) for run in compare.plan(exp, tmp_path)]
    assert found == [("a", 0.02), ("b", 0.02), ("a", 0.06), ("b", 0.06), ("a", 0.001)]
    # Rates named by the user are the rates of all arms.
    edited = config.edit_experiment(exp, ["lrs=0.5"])
    found = [(run.arm, run.exp.optimizer.lr) for run in compare.plan(edited, tmp_path)]
    assert found == [("a", 0.5), ("b", 0.5)]
