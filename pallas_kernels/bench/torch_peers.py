"""The same cases in PyTorch, as a separate program: two frameworks would share a GPU's memory.

    python -m pallas_kernels.bench.torch_peers attention kanana_2_30b_4k ...

Prints one JSON object: versions and rows, or the reason why there are none.
"""

import functools
import importlib
import json
import sys

import numpy as np

from pallas_kernels.bench import attention, grouped_matmul, symmetric_matmul, timing
from pallas_kernels.flash_attention import cases as attention_cases
from pallas_kernels.grouped_matmul import cases as matmul_cases
from pallas_kernels.symmetric_matmul import cases as symmetric_cases


def main(op: str, names: list[str]) -> dict:
    """Measures the named cases of an op."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return {"reason": f"not importable: {error}"}
    if not torch.cuda.is_available():
        return {"reason": f"torch {torch.__version__} sees no CUDA device"}
    table, measure = OPS[op]
    rows = []
    for case in table.CASES:
        if case.name in names:
            rows += measure(torch, case)
            torch.cuda.empty_cache()
    versions = {
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "torch_cudnn": torch.backends.cudnn.version(),
    }
    return {"versions": versions, "rows": rows}


def _attention(torch, case):
    inputs = attention_cases.make_inputs(case)
    work = attention.flops(case, inputs.segment_ids)
    kernels = importlib.import_module("torch.nn.attention")
    q, k, v, dout = (
        _on_gpu(torch, x).transpose(1, 2).contiguous()
        for x in (inputs.q, inputs.k, inputs.v, inputs.dout)
    )
    for x in (q, k, v):
        x.requires_grad_(True)

    def forward(backend):
        with kernels.sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=case.causal, enable_gqa=case.num_heads != case.num_kv_heads
            )

    def gradients(backend):
        return torch.autograd.grad(forward(backend), (q, k, v), dout)

    for label, backend in (
        ("torch SDPA cuDNN", kernels.SDPBackend.CUDNN_ATTENTION),
        ("torch SDPA flash", kernels.SDPBackend.FLASH_ATTENTION),
    ):
        for op, function in zip(attention.OPS, (forward, gradients), strict=True):
            if inputs.segment_ids is not None:
                reason = "has no segment ids, only masks of all scores"
                yield timing.Row(case.name, op, label, None, None, reason)
                continue
            run = functools.partial(function, backend)
            yield timing.attempt(case.name, op, label, work[op], run, _wait(torch))


def _grouped_matmul(torch, case):
    inputs = matmul_cases.make_inputs(case)
    lhs, rhs, grad = (_on_gpu(torch, x) for x in (inputs.lhs, inputs.rhs, inputs.grad))
    ends = torch.tensor(np.cumsum(inputs.group_sizes), device="cuda", dtype=torch.int32)
    product = functools.partial(torch._grouped_mm, offs=ends)

    runs = (
        lambda: product(lhs, rhs),
        lambda: product(grad, rhs.transpose(-2, -1)),
        lambda: product(lhs.t(), grad),
    )
    work = grouped_matmul.flops(case)
    for op, run in zip(grouped_matmul.OPS, runs, strict=True):
        yield timing.attempt(case.name, op, "torch grouped_mm", work, run, _wait(torch))


def _grouped_matmul_fp8(torch, case):
    """One scale for each row and each column, which PyTorch has in place of blocks.

    It needs groups whose sizes are multiples of 16 rows.
    """
    inputs = matmul_cases.make_inputs(case)
    sizes = inputs.group_sizes // 16 * 16
    sizes[0] += case.num_rows - sizes.sum()
    ends = torch.tensor(np.cumsum(sizes), device="cuda", dtype=torch.int32)
    arrays = {"forward": (inputs.lhs, inputs.rhs.swapaxes(1, 2)), "dlhs": (inputs.grad, inputs.rhs)}
    for op, (x, w) in arrays.items():
        # The matrices are stored as (G, N, K) and passed as (G, K, N).
        rows, matrices = (_on_gpu(torch, a, torch.float8_e4m3fn) for a in (x, w.copy()))
        scales = [torch.ones(a.shape[:-1], device="cuda") for a in (rows, matrices)]
        for is_fast in (True, False):
            run = functools.partial(
                torch._scaled_grouped_mm,
                rows,
                matrices.transpose(-2, -1),
                *scales,
                offs=ends,
                out_dtype=torch.bfloat16,
                use_fast_accum=is_fast,
            )
            label = f"torch row-wise fp8{', fast sums' if is_fast else ''}"
            work = grouped_matmul.flops(case)
            yield timing.attempt(case.name, op, label, work, run, _wait(torch))


def _symmetric_matmul(torch, case):
    inputs = symmetric_cases.make_inputs(case)
    half = functools.partial(_on_gpu, torch, dtype=torch.float16)
    lhs = half(inputs.lhs)
    rhs = lhs if inputs.rhs is None else half(inputs.rhs)
    addend = None if inputs.addend is None else half(inputs.addend)
    scale, addend_scale = (inputs.factors.get(k, 1.0) for k in ("scale", "addend_scale"))
    a, b, c = symmetric_matmul.ROW

    def product():
        if addend is None:
            return torch.bmm(lhs, rhs.mT)
        out = torch.baddbmm(addend, lhs, rhs.mT, beta=addend_scale, alpha=scale)
        out.diagonal(dim1=1, dim2=2).add_(inputs.factors["diagonal"])
        return out

    def five_steps(x):
        x = x / x.norm(dim=(-2, -1), keepdim=True)
        for _ in range(symmetric_matmul.STEPS):
            gram = x @ x.mT
            x = a * x + (b * gram + c * (gram @ gram)) @ x
        return x

    runs = {"torch bmm": product}
    if case.kind == "gram":
        runs["torch.compile"] = functools.partial(torch.compile(five_steps), lhs)
    work = symmetric_matmul.flops(case)
    for op, (name, run) in zip(symmetric_matmul.OPS, runs.items(), strict=False):
        yield timing.attempt(case.name, op, name, work[op], run, _wait(torch))


def _on_gpu(torch, x, dtype=None):
    return torch.from_numpy(x).to("cuda", dtype or torch.bfloat16)


def _wait(torch):
    return lambda _: torch.cuda.synchronize()


OPS = {
    "attention": (attention_cases, _attention),
    "fp8_tiles": (matmul_cases, _grouped_matmul_fp8),
    "grouped_matmul": (matmul_cases, _grouped_matmul),
    "grouped_matmul_fp8": (matmul_cases, _grouped_matmul_fp8),
    "symmetric_matmul": (symmetric_cases, _symmetric_matmul),
}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2:])))
