"""Times every op on its benchmark cases, next to the peers that are installed.

    python -m pallas_kernels.bench attention grouped_matmul grouped_matmul_fp8 moe symmetric_matmul
    python -m pallas_kernels.bench fp8_tiles quantize dense_fp8

TFLOP/s count the model's FLOPs, whatever a kernel recomputes: with P visible (query, key) pairs
per head, N heads and widths D (query, key) and U (value)

    attention:         forward 2 P N (D + U), backward 2 P N (3 D + 2 U); causal counts half of P
    grouped_matmul:    2 M K N for the product and for each gradient
    grouped_matmul_fp8: the same, of blocks of FP8; fp8_tiles the product in many tiles
    dense_fp8:         2 M K N
    moe:               forward 6 T F D (K + shared experts), backward twice that
    symmetric_matmul:  B matrices M x K: product 2 B M^2 K, five steps of Newton-Schulz
                       10 B M^2 (2 K + M), although half of a symmetric result is enough
"""
