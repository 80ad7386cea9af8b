"""Writes trl_golden.json: losses of pairs and their gradients by TRL's own code, in float64.

    python3.12 -m venv trl && trl/bin/pip install trl==1.16.0 torch
    trl/bin/python tests/objectives/make_trl_golden.py

The trainers are made without their constructors, and a stand-in for the model hands out
log-probabilities or rewards that are given. TRL smooths labels in its "aot" loss only, which for a
single pair is smoothed DPO, and its "sft" term is a mean over the tokens of a batch; so these two
run on batches of one pair, and the mean over the pairs is taken here.
"""

import collections
import json
import types
from pathlib import Path
from typing import Any

import torch
import trl
from trl.trainer import dpo_trainer, reward_trainer

PROMPT = 2
LENGTHS = ((3, 2), (1, 4), (5, 5), (2, 1), (4, 6))  # targets of the chosen and the rejected answer
DPO_CASES: dict[str, dict[str, Any]] = {
    "dpo": {"beta": 0.3, "loss_types": ["sigmoid"]},
    "dpo_smoothed": {"beta": 0.3, "loss_types": ["aot"], "label_smoothing": 0.1},
    "dpo_norm": {"beta": 5.0, "loss_types": ["sigmoid_norm"]},
    "ipo": {"beta": 0.3, "loss_types": ["ipo"]},
    "dpo_sft": {"beta": 0.3, "loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]},
}
BY_PAIR = ("dpo_smoothed", "dpo_sft")


class Accelerator:
    device = torch.device("cpu")

    def gather(self, x):
        return x

    gather_for_metrics = gather


def trainer(kind: type, **attributes: Any) -> Any:
    made = kind.__new__(kind)
    made.model = types.SimpleNamespace(training=False)
    made.accelerator = Accelerator()
    made._metrics = {"train": collections.defaultdict(list), "eval": collections.defaultdict(list)}
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def dpo_loss(logps: list[list[torch.Tensor]], refs, case: dict[str, Any]) -> torch.Tensor:
    """Of pairs ([chosen, rejected], ...) of log-probabilities of an answer's tokens."""
    answers = [pair[side] for side in (0, 1) for pair in logps]
    width = PROMPT + max(map(len, answers))
    mask = torch.tensor([[0] * PROMPT + [1] * len(x) + [0] * (width - PROMPT - len(x))
                         for x in answers])  # fmt: skip
    # What TRL takes from the model is of tokens after the first.
    padded = [torch.nn.functional.pad(x, (PROMPT - 1, width - PROMPT - len(x))) for x in answers]
    log_probs = torch.stack(padded)
    outputs = types.SimpleNamespace(
        log_probs=log_probs,
        entropy=log_probs * 0,
        mean_logits=log_probs * 0,
        is_top1=log_probs > 0,
    )
    made = trainer(
        dpo_trainer.DPOTrainer,
        **{"label_smoothing": 0.0, "loss_weights": [1.0]} | case,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        aux_loss_enabled=False,
        _total_train_tokens=0,
    )
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": torch.stack([pair[0].sum() for pair in refs]),
        "ref_rejected_logps": torch.stack([pair[1].sum() for pair in refs]),
    }
    return made._compute_loss(lambda **kwargs: outputs, inputs, False)


def reward_loss(rewards: torch.Tensor, centering: float | None) -> torch.Tensor:
    """Of rewards (2, pairs), the chosen ones first."""
    made = trainer(
        reward_trainer.RewardTrainer,
        args=types.SimpleNamespace(center_rewards_coefficient=centering),
        _total_train_tokens=0,
    )
    outputs = types.SimpleNamespace(logits=rewards.reshape(-1, 1))
    return made.compute_loss(lambda **kwargs: outputs, {"attention_mask": torch.ones(1)})


def nested(tensors: Any) -> Any:
    return [nested(x) for x in tensors] if isinstance(tensors, list) else tensors.tolist()


def main() -> None:
    torch.manual_seed(0)

    def draw(length: int) -> torch.Tensor:
        return (-torch.rand(length, dtype=torch.float64) * 4).float().double()

    logps = [[draw(length).requires_grad_() for length in pair] for pair in LENGTHS]
    refs = [[draw(length) for length in pair] for pair in LENGTHS]
    leaves = [x for pair in logps for x in pair]
    found: dict[str, Any] = {
        "versions": {"trl": trl.__version__, "torch": torch.__version__.split("+")[0]},
        "logps": nested([[x.detach() for x in pair] for pair in logps]),
        "refs": nested(refs),
        "preference": {},
        "reward": {},
    }
    for name, case in DPO_CASES.items():
        if name in BY_PAIR:
            each = [dpo_loss([x], [ref], case) for x, ref in zip(logps, refs, strict=True)]
            loss = torch.stack(each).mean()
        else:
            loss = dpo_loss(logps, refs, case)
        slopes = iter(torch.autograd.grad(loss, leaves))
        by_pair = [[next(slopes).tolist() for _ in pair] for pair in logps]
        found["preference"][name] = {"loss": loss.item(), "slopes": by_pair}
    rewards = torch.randn(2, 5, dtype=torch.float64).float().double().requires_grad_()
    found["rewards"] = rewards.detach().tolist()
    for name, centering in (("plain", None), ("centered", 0.01)):
        loss = reward_loss(rewards, centering)
        (slopes,) = torch.autograd.grad(loss, [rewards])
        found["reward"][name] = {"loss": loss.item(), "slopes": slopes.tolist()}
    Path(__file__).with_name("trl_golden.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
