"""Writes trl_policy_golden.json: policy-gradient losses and gradients by TRL's code, in float64.

Run as make_trl_golden.py, which also says how the trainers are made. TRL's GRPO trainer takes a row
for each rollout; rollouts here have several runs of drawn tokens, as `tool_mask` has them.
"""

import json
import types
from pathlib import Path
from typing import Any

import make_trl_golden
import torch
import trl
from trl.trainer import grpo_trainer

# 1 where the model drew the token, 0 where a tool wrote it.
MASKS = ("111", "1", "1100111", "11011", "11111", "101")
CASES: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo", "epsilon_high": 0.2, "beta": 0.0},
    "grpo_k3": {"loss_type": "grpo", "epsilon_high": 0.2, "beta": 0.04},
    "dr_grpo": {"loss_type": "dr_grpo", "epsilon_high": 0.2, "beta": 0.0},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.0},
    "dapo_dual": {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.0, "delta": 1.4},
    "dapo_rk3": {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.1, "is_live": True},
    "dapo_truncated": {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.1, "cap": 1.2},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.2, "beta": 0.0},
    "gspo": {
        "loss_type": "grpo",
        "epsilon_low": 0.03,
        "epsilon_high": 0.04,
        "beta": 0.0,
        "importance_sampling_level": "sequence",
    },
}
CONSTANT_LENGTH = 9


class Accelerator(make_trl_golden.Accelerator):
    num_processes = 1

    def reduce(self, x, reduction):
        return x


def loss(logps: torch.Tensor, given: dict[str, torch.Tensor], case: dict[str, Any]):
    settings = {"epsilon_low": 0.2, "importance_sampling_level": "token"} | case
    is_live, cap = settings.pop("is_live", False), settings.pop("cap", None)
    args = types.SimpleNamespace(delta=settings.pop("delta", None), use_bias_correction_kl=is_live)
    made = make_trl_golden.trainer(
        grpo_trainer.GRPOTrainer,
        **settings,
        args=args,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=cap is not None,
        vllm_importance_sampling_correction=True,
        max_completion_length=CONSTANT_LENGTH,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logps, logps.detach(), None),
    )
    made.accelerator = Accelerator()
    mask = given["mask"]
    inputs = {
        "prompt_ids": mask.long(),
        "prompt_mask": mask.long(),
        "completion_ids": mask.long(),
        "completion_mask": torch.ones_like(mask),
        "tool_mask": mask,
        "advantages": given["advantages"],
        "old_per_token_logps": given["old"],
        "ref_per_token_logps": given["reference"],
        "num_items_in_batch": mask.sum(),
    }
    if cap is not None:
        rho = torch.exp(given["old"] - given["sampler"])
        inputs["importance_sampling_ratio"] = rho.clamp(max=cap)
    return made._compute_loss(None, inputs)


def main() -> None:
    torch.manual_seed(0)
    shape = len(MASKS), max(map(len, MASKS))

    def noise(scale: float) -> torch.Tensor:
        return scale * torch.randn(shape, dtype=torch.float64)

    logps = (-torch.rand(shape, dtype=torch.float64) * 4).float().double()
    given = {name: (logps + noise(scale)).float().double() for name, scale in (
        ("old", 0.3), ("reference", 0.5), ("sampler", 0.4))}  # fmt: skip
    given["advantages"] = torch.randn(len(MASKS), dtype=torch.float64).float().double()
    rows = [[float(one) for one in row.ljust(shape[1], "0")] for row in MASKS]
    given["mask"] = torch.tensor(rows, dtype=torch.float64)
    logps.requires_grad_()
    found: dict[str, Any] = {
        "versions": {"trl": trl.__version__, "torch": torch.__version__.split("+")[0]},
        "constant_length": CONSTANT_LENGTH,
        "logps": logps.tolist(),
        **{name: value.tolist() for name, value in given.items()},
        "cases": {},
    }
    for name, case in CASES.items():
        of_case = loss(logps, given, case)
        (slopes,) = torch.autograd.grad(of_case, [logps])
        found["cases"][name] = {"loss": of_case.item(), "slopes": slopes.tolist()}
    text = json.dumps(found, indent=1)
    Path(__file__).with_name("trl_policy_golden.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
